//! SmolVLM's and Idefics3's image processor: square tiles and the whole image after them.
//!
//! Source: `SmolVLMImageProcessorPil` of transformers: resize the longest edge, split into square tiles (or squeeze into
//! one). Deliberately absent: padding and its mask, because every tile is a full square.

use std::path::Path;

use image::RgbImage;
use serde::Deserialize;

use super::levels::{Levels, Scaling};
use super::{Cut, MAX_PIXELS, Pixels, resampling, stretch};
use crate::model::ModelError;
use crate::model::resize::Filter;

/// The settings of `preprocessor_config.json`.
#[derive(Debug, Clone)]
pub(super) struct Tiler {
    resize_first: Option<Size>,
    pub tile: u32,
    split: bool,
    filter: Filter,
    pub levels: Levels,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Size {
    Longest { longest_edge: u32 },
    Exact { height: u32, width: u32 },
}

#[derive(Deserialize)]
#[serde(default)]
struct File {
    do_resize: bool,
    size: Size,
    resample: i64,
    do_image_splitting: bool,
    max_image_size: Longest,
    #[serde(flatten)]
    scaling: Scaling,
}

#[derive(Deserialize)]
struct Longest {
    longest_edge: u32,
}

impl Default for File {
    fn default() -> Self {
        Self {
            do_resize: true,
            size: Size::Longest { longest_edge: 4 * 364 },
            resample: 1,
            do_image_splitting: true,
            max_image_size: Longest { longest_edge: 364 },
            scaling: Scaling::default(),
        }
    }
}

/// The reference's absolute maximum of a side.
const MAX_SIDE: u32 = 4096;
/// Tiles of one picture at most: each has a name in the prompt, however few its pixels are.
const MAX_TILES: u64 = 1 << 12;

impl Tiler {
    /// Reads the settings from JSON; `path` is for messages.
    pub fn from_json(path: &Path, json: serde_json::Value) -> Result<Self, ModelError> {
        let refuse = |what: String| ModelError::folder(path, what, "use the processor of a SmolVLM");
        let file: File = serde_json::from_value(json).map_err(|e| refuse(e.to_string()))?;
        let sides = match file.size {
            Size::Longest { longest_edge } => [longest_edge, file.max_image_size.longest_edge],
            Size::Exact { height, width } => [height.min(width), file.max_image_size.longest_edge],
        };
        let largest = match file.size {
            Size::Longest { longest_edge } => longest_edge,
            Size::Exact { height, width } => height.max(width),
        };
        if sides.contains(&0) || largest > 4 * MAX_SIDE || sides[1] > MAX_SIDE {
            return Err(refuse(format!("a size is zero or above {MAX_SIDE} pixels")));
        }
        if let Size::Exact { height, width } = file.size
            && u64::from(height) * u64::from(width) > MAX_PIXELS
        {
            return Err(refuse(format!("size {width}x{height} is more than {MAX_PIXELS} pixels")));
        }
        Ok(Self {
            resize_first: file.do_resize.then_some(file.size),
            tile: file.max_image_size.longest_edge,
            split: file.do_image_splitting,
            filter: resampling(file.resample).map_err(refuse)?,
            levels: Levels::new(&file.scaling).map_err(refuse)?,
        })
    }

    /// Whether a picture may become more than one tile.
    pub fn splits(&self) -> bool {
        self.split
    }

    /// How a picture of this size would be cut.
    pub fn plan(&self, width: u32, height: u32) -> Result<Cut, ModelError> {
        if !self.split {
            return Ok(Cut::WHOLE);
        }
        let (width, height) = self.first_size(width, height);
        Ok(self.grid(width, height)?.2)
    }

    /// The picture's tiles, and the whole of it after them.
    pub fn prepare(&self, image: RgbImage) -> Result<Pixels, ModelError> {
        let image = match self.resize_first {
            None => image,
            Some(_) => {
                let (width, height) = self.first_size(image.width(), image.height());
                stretch(&image, width, height, self.filter)?
            }
        };
        let (parts, cut) = match self.split {
            true => self.cut(&image)?,
            false => (vec![stretch(&image, self.tile, self.tile, self.filter)?], Cut::WHOLE),
        };
        let side = self.tile as usize;
        let mut data = Vec::with_capacity(parts.len() * 3 * side * side);
        for part in &parts {
            for channel in 0..3 {
                let bytes = part.as_raw()[channel..].iter().step_by(3);
                data.extend(bytes.map(|&byte| self.levels.number(byte, channel)));
            }
        }
        Ok(Pixels { data, cut, shape: vec![parts.len() as i64, 3, side as i64, side as i64] })
    }

    /// Width and height after the first resizing.
    fn first_size(&self, width: u32, height: u32) -> (u32, u32) {
        match self.resize_first {
            None => (width, height),
            Some(Size::Exact { height, width }) => (width, height),
            Some(Size::Longest { longest_edge }) => longest(width, height, longest_edge),
        }
    }

    /// Width and height stretched to whole tiles, and the tiles they make.
    fn grid(&self, width: u32, height: u32) -> Result<(u32, u32, Cut), ModelError> {
        let tile = u64::from(self.tile);
        // A header may promise sides near u32's end: whole tiles of them go beyond it.
        let up = |n: u64| n.div_ceil(tile) * tile;
        let aspect = f64::from(width) / f64::from(height);
        let (wide, high) = (up(u64::from(width)), up(u64::from(height)));
        let (width, height) = match width >= height {
            true => (wide, up((wide as f64 / aspect) as u64)),
            false => (up((high as f64 * aspect) as u64), high),
        };
        let (width, height) = (width.max(tile), height.max(tile));
        if width <= tile && height <= tile {
            return Ok((self.tile, self.tile, Cut::WHOLE));
        }
        let pixels = width.saturating_mul(height);
        if pixels > MAX_PIXELS {
            let what = format!("it becomes {width}x{height} pixels in whole tiles, more than {MAX_PIXELS}");
            return Err(ModelError::image(what, "send a smaller or less elongated image"));
        }
        if pixels / tile / tile > MAX_TILES {
            let what = format!("it becomes {} tiles, more than {MAX_TILES}", pixels / tile / tile);
            return Err(ModelError::image(what, "send a smaller or less elongated image"));
        }
        // Both are below MAX_PIXELS.
        let sides = (width as u32, height as u32);
        Ok((
            sides.0,
            sides.1,
            Cut::Tiles { rows: (height / tile) as usize, columns: (width / tile) as usize },
        ))
    }

    /// Stretches to whole tiles, cuts, and appends the whole image at tile size.
    fn cut(&self, image: &RgbImage) -> Result<(Vec<RgbImage>, Cut), ModelError> {
        let tile = self.tile;
        let (width, height, cut) = self.grid(image.width(), image.height())?;
        let image = stretch(image, width, height, self.filter)?;
        if cut == Cut::WHOLE {
            return Ok((vec![image], cut));
        }
        let corners = (0..height / tile).flat_map(|r| (0..width / tile).map(move |c| (c * tile, r * tile)));
        let mut parts: Vec<RgbImage> =
            corners.map(|(x, y)| image::imageops::crop_imm(&image, x, y, tile, tile).to_image()).collect();
        parts.push(stretch(&image, tile, tile, self.filter)?);
        Ok((parts, cut))
    }
}

/// Width and height when the longest edge becomes `edge`, in the reference's rounding.
fn longest(width: u32, height: u32, edge: u32) -> (u32, u32) {
    let aspect = f64::from(width) / f64::from(height);
    let even = |n: u32| n + n % 2;
    let (width, height) = match width >= height {
        true => (edge, even((f64::from(edge) / aspect) as u32)),
        false => (even((f64::from(edge) * aspect) as u32), edge),
    };
    let (width, height) = (width.max(1), height.max(1));
    let aspect = f64::from(width) / f64::from(height);
    let (width, height) = match width >= height {
        true if width > MAX_SIDE => (MAX_SIDE, (f64::from(MAX_SIDE) / aspect) as u32),
        false if height > MAX_SIDE => ((f64::from(MAX_SIDE) * aspect) as u32, MAX_SIDE),
        _ => (width, height),
    };
    (width.max(1), height.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_edge_is_rounded_as_in_the_reference() {
        // 100 x 67 to 64: 64 / (100/67) = 42.88 -> 42, even.  100 x 65: 41.6 -> 41 -> 42.
        assert_eq!(longest(100, 67, 64), (64, 42));
        assert_eq!(longest(65, 100, 64), (42, 64));
        assert_eq!(longest(1, 1000, 64), (1, 64));
    }
}
