//! The Qwen families' image processor: the picture's own shape, in whole blocks of patches.
//!
//! Source: `Qwen2VLImageProcessorPil` of transformers (`smart_resize`, `patchify`). Deliberately absent: video.

use std::path::Path;

use image::RgbImage;
use serde::Deserialize;

use super::levels::{Levels, Scaling};
use super::{Cut, MAX_PIXELS, Pixels, resampling, stretch};
use crate::model::ModelError;
use crate::model::resize::Filter;

/// The settings of `preprocessor_config.json`.
#[derive(Debug, Clone)]
pub(super) struct Patcher {
    pub resize: bool,
    least: u64,
    most: u64,
    pub patch: u32,
    pub frames: u32,
    pub merge: u32,
    pub filter: Filter,
    pub levels: Levels,
}

#[derive(Deserialize)]
#[serde(default)]
struct File {
    do_resize: bool,
    size: Option<Size>,
    min_pixels: Option<u64>,
    max_pixels: Option<u64>,
    patch_size: u32,
    temporal_patch_size: u32,
    merge_size: u32,
    resample: i64,
}

#[derive(Deserialize)]
struct Size {
    shortest_edge: Option<u64>,
    longest_edge: Option<u64>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            do_resize: true,
            size: None,
            min_pixels: None,
            max_pixels: None,
            patch_size: 14,
            temporal_patch_size: 2,
            merge_size: 2,
            resample: 3,
        }
    }
}

/// CLIP's mean and deviation, which the reference takes where the file names none.
const MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];
/// The longer side over the shorter at most.
const MAX_ASPECT: u32 = 200;
/// Frames that a picture of the most pixels may be repeated for; of a smaller one more.
const MAX_FRAMES: u64 = 2;

impl Patcher {
    /// Reads the settings from JSON; `path` is for messages.
    pub fn from_json(path: &Path, mut json: serde_json::Value) -> Result<Self, ModelError> {
        let refuse = |what: String| ModelError::folder(path, what, "use the processor of a Qwen-VL");
        if let Some(keys) = json.as_object_mut() {
            keys.entry("image_mean").or_insert(MEAN.to_vec().into());
            keys.entry("image_std").or_insert(STD.to_vec().into());
        }
        let scaling: Scaling = serde_json::from_value(json.clone()).map_err(|e| refuse(e.to_string()))?;
        let file: File = serde_json::from_value(json).map_err(|e| refuse(e.to_string()))?;
        let edge = |of: fn(&Size) -> Option<u64>| file.size.as_ref().and_then(of);
        let least = file.min_pixels.or(edge(|size| size.shortest_edge)).unwrap_or(56 * 56);
        let most = file.max_pixels.or(edge(|size| size.longest_edge)).unwrap_or(28 * 28 * 1280);
        let sizes = [file.patch_size, file.temporal_patch_size, file.merge_size];
        if sizes.iter().any(|n| !(1..=1024).contains(n)) || file.patch_size * file.merge_size > 4096 {
            return Err(refuse(
                "patch_size, temporal_patch_size or merge_size is zero or absurdly large".into(),
            ));
        }
        if least > most || most == 0 {
            return Err(refuse(format!("the fewest pixels ({least}) are more than the most ({most})")));
        }
        // 16384 x 16384 pixels would not fit any memory as patches, and no pixels at all are no picture.
        let most = most.min(MAX_PIXELS);
        Ok(Self {
            resize: file.do_resize,
            least: least.clamp(1, most),
            most,
            patch: file.patch_size,
            frames: file.temporal_patch_size,
            merge: file.merge_size,
            filter: resampling(file.resample).map_err(refuse)?,
            levels: Levels::new(&scaling).map_err(refuse)?,
        })
    }

    /// How a picture of this size would be cut.
    pub fn plan(&self, width: u32, height: u32) -> Result<Cut, ModelError> {
        let (width, height) = self.size(width, height)?;
        Ok(Cut::Grid { rows: (height / self.patch) as usize, columns: (width / self.patch) as usize })
    }

    /// Width and height as multiples of a block of patches, near the picture's own and within the limits.
    fn size(&self, width: u32, height: u32) -> Result<(u32, u32), ModelError> {
        let (short, long) = (width.min(height).max(1), width.max(height));
        if long > MAX_ASPECT.saturating_mul(short) {
            let what = format!("{width}x{height} is longer than {MAX_ASPECT} times its width");
            return Err(ModelError::image(what, "send a less elongated image"));
        }
        let block = self.patch * self.merge;
        if !self.resize {
            if !width.is_multiple_of(block) || !height.is_multiple_of(block) {
                let what = format!("{width}x{height} is no multiple of {block}, and do_resize is off");
                return Err(ModelError::image(what, "resize the image first"));
            }
            return self.bounded(f64::from(width), f64::from(height));
        }
        let (w, h, block) = (f64::from(width), f64::from(height), f64::from(block));
        let near = |side: f64| (side / block).round_ties_even() * block;
        let (mut wide, mut high) = (near(w), near(h));
        let pixels = wide * high;
        if pixels > self.most as f64 {
            let shrink = (h * w / self.most as f64).sqrt();
            let down = |side: f64| ((side / shrink / block).floor() * block).max(block);
            (wide, high) = (down(w), down(h));
        } else if pixels < self.least as f64 {
            let grow = (self.least as f64 / (h * w)).sqrt();
            let up = |side: f64| (side * grow / block).ceil() * block;
            (wide, high) = (up(w), up(h));
        }
        self.bounded(wide, high)
    }

    /// Positive whole sides whose numbers fit the memory: a picture gets at least one block along its shorter side, so
    /// the limit on pixels alone does not bound large blocks.
    fn bounded(&self, wide: f64, high: f64) -> Result<(u32, u32), ModelError> {
        if wide * high * f64::from(self.frames) > (MAX_PIXELS * MAX_FRAMES) as f64 {
            let what = format!("it becomes {wide}x{high} pixels in {} frames, more than fit", self.frames);
            return Err(ModelError::image(what, "send a smaller or less elongated image"));
        }
        Ok((wide as u32, high as u32))
    }

    /// The picture as rows of patches, block by block; within a patch channel, frame, row, column.
    pub fn prepare(&self, image: RgbImage) -> Result<Pixels, ModelError> {
        let (width, height) = self.size(image.width(), image.height())?;
        let image = if self.resize { stretch(&image, width, height, self.filter)? } else { image };
        let (rows, columns) = (height / self.patch, width / self.patch);
        let numbers = (3 * self.frames * self.patch * self.patch) as usize;
        let mut data = Vec::with_capacity(rows as usize * columns as usize * numbers);
        for (row, column) in blocks(rows, columns, self.merge) {
            for channel in 0..3 {
                for _ in 0..self.frames {
                    for y in row * self.patch..(row + 1) * self.patch {
                        let from = (y * width + column * self.patch) as usize * 3 + channel;
                        let line = image.as_raw()[from..].iter().step_by(3).take(self.patch as usize);
                        data.extend(line.map(|&byte| self.levels.number(byte, channel)));
                    }
                }
            }
        }
        let cut = Cut::Grid { rows: rows as usize, columns: columns as usize };
        Ok(Pixels { data, cut, shape: vec![i64::from(rows * columns), numbers as i64] })
    }
}

/// Row and column of each patch, in blocks of `merge x merge`.
fn blocks(rows: u32, columns: u32, merge: u32) -> impl Iterator<Item = (u32, u32)> {
    let corners = (0..rows)
        .step_by(merge as usize)
        .flat_map(move |top| (0..columns).step_by(merge as usize).map(move |left| (top, left)));
    corners.flat_map(move |(top, left)| {
        (top..top + merge).flat_map(move |row| (left..left + merge).map(move |column| (row, column)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patcher(json: serde_json::Value) -> Result<Patcher, ModelError> {
        Patcher::from_json(Path::new("preprocessor_config.json"), json)
    }

    #[test]
    fn sides_become_multiples_of_a_block_within_the_limits() {
        let settings =
            serde_json::json!({"min_pixels": 3136, "max_pixels": 12544, "patch_size": 14, "merge_size": 2});
        let patcher = patcher(settings).expect("valid");
        // 70 / 28 = 2.5 goes to the even 2, 98 / 28 = 3.5 to the even 4.
        assert_eq!(patcher.size(70, 98).expect("fits"), (56, 112));
        assert_eq!(patcher.size(20, 20).expect("grows"), (56, 56));
        assert_eq!(patcher.size(400, 100).expect("shrinks"), (224, 56));
        assert!(patcher.size(1000, 4).expect_err("refused").to_string().contains("1000x4"));
    }

    #[test]
    fn a_processor_that_would_eat_the_memory_is_refused_or_bounded() {
        assert!(patcher(serde_json::json!({"patch_size": 0})).is_err());
        assert!(patcher(serde_json::json!({"patch_size": 4_000_000})).is_err());
        let wide = patcher(serde_json::json!({"max_pixels": u64::MAX, "min_pixels": 1})).expect("bounded");
        assert_eq!(wide.most, MAX_PIXELS);
        assert!(patcher(serde_json::json!({"max_pixels": 5, "min_pixels": 6})).is_err());
    }
}
