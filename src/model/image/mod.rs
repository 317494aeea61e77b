//! From the bytes of an image to the numbers a tower takes, as the families' image processors do it.
//!
//! Invariant: limits hold before memory is spent; any bytes give pixels or an error, never a panic. Pictures are turned
//! upright (EXIF), and what is transparent is white. Deliberately absent: video.

mod decode;
mod levels;
mod patches;
mod tiles;

use std::path::Path;

use tch::Tensor;

use super::ModelError;
use super::config::{Config, Family, VisionConfig};
use super::resize::{Filter, resize};
use image::RgbImage;
use patches::Patcher;
use tiles::Tiler;

/// How large an image may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageLimits {
    /// Bytes as sent.
    pub max_bytes: usize,
    /// Width times height.
    pub max_pixels: u64,
}

impl Default for ImageLimits {
    /// 16 MiB and 40 million pixels.
    fn default() -> Self {
        Self { max_bytes: 16 << 20, max_pixels: 40_000_000 }
    }
}

/// How an image was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cut {
    /// Square tiles of one size and the whole image after them; without a grid the whole image only.
    Tiles {
        /// Rows of the grid; 0 when the image is not split.
        rows: usize,
        /// Columns of the grid; 0 when the image is not split.
        columns: usize,
    },
    /// A grid of patches of the image's own shape.
    Grid {
        /// Patches from top to bottom.
        rows: usize,
        /// Patches from left to right.
        columns: usize,
    },
}

impl Cut {
    /// An image that is not split.
    pub const WHOLE: Cut = Cut::Tiles { rows: 0, columns: 0 };

    /// Number of squares that a tower of tiles sees; 1 for a grid.
    pub fn tiles(self) -> usize {
        match self {
            Cut::Tiles { rows, columns } => rows * columns + 1,
            Cut::Grid { .. } => 1,
        }
    }

    /// Rows and columns.
    pub fn sides(self) -> (i64, i64) {
        match self {
            Cut::Tiles { rows, columns } | Cut::Grid { rows, columns } => (rows as i64, columns as i64),
        }
    }
}

/// An image ready for the tower: plain numbers, free to cross threads.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// Normalised values, row by row.
    pub data: Vec<f32>,
    /// How the image was cut.
    pub cut: Cut,
    /// `[tiles, 3, height, width]`, or `[patches, numbers]`.
    pub shape: Vec<i64>,
}

impl Pixels {
    pub(super) fn tensor(&self) -> Tensor {
        Tensor::from_slice(&self.data).view(self.shape.as_slice())
    }
}

/// The settings of `preprocessor_config.json`. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ImageProcessor(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Tiles(Tiler),
    Patches(Patcher),
}

impl ImageProcessor {
    /// Reads the settings of a family from JSON; `path` is for messages.
    pub(crate) fn from_json(
        path: &Path,
        family: Family,
        json: serde_json::Value,
    ) -> Result<Self, ModelError> {
        Ok(Self(match family {
            Family::SmolVlm => Kind::Tiles(Tiler::from_json(path, json)?),
            Family::Qwen2_5Vl | Family::Qwen3Vl => Kind::Patches(Patcher::from_json(path, json)?),
        }))
    }

    /// Whether what it makes is what the tower takes; else what is wrong and the cure.
    pub(crate) fn fit(&self, config: &Config) -> Result<(), (String, &'static str)> {
        match (&self.0, &config.vision) {
            (Kind::Tiles(own), VisionConfig::Siglip(v)) if i64::from(own.tile) != v.image_size => {
                let what = format!("tiles of {} pixels for a tower of {}", own.tile, v.image_size);
                Err((what, "make max_image_size equal to config.json's vision image_size"))
            }
            (Kind::Patches(own), VisionConfig::Qwen2_5(v) | VisionConfig::Qwen3(v)) => {
                let made = [own.patch, own.frames, own.merge].map(i64::from);
                let taken = [v.patch_size, v.temporal_patch_size, v.spatial_merge_size];
                if made == taken {
                    return Ok(());
                }
                let what = format!("patches, frames and blocks of {made:?} for a tower of {taken:?}");
                Err((what, "make patch_size, temporal_patch_size and merge_size those of config.json"))
            }
            _ => Ok(()),
        }
    }

    /// Undoes the normalisation: the value in `0.0..=1.0` that a number of channel `channel` stands for.
    pub fn unit_value(&self, value: f32, channel: usize) -> f32 {
        match &self.0 {
            Kind::Tiles(own) => own.levels.unit(value, channel),
            Kind::Patches(own) => own.levels.unit(value, channel),
        }
    }

    /// How [`ImageProcessor::prepare`] would cut an image, read from its header: the rest may be missing.
    ///
    /// Errors: not a PNG, JPEG or WebP, a header that is damaged or not whole, or a shape that cannot be cut.
    pub fn cut(&self, bytes: &[u8]) -> Result<Cut, ModelError> {
        match &self.0 {
            // Nothing has to be read where every image becomes one tile.
            Kind::Tiles(own) if !own.splits() => Ok(Cut::WHOLE),
            _ => decode::size(bytes).and_then(|(width, height)| self.plan(width, height)),
        }
    }

    /// How an image of this size, both sides above zero, would be cut.
    ///
    /// Errors: a shape that cannot be cut.
    pub fn plan(&self, width: u32, height: u32) -> Result<Cut, ModelError> {
        match &self.0 {
            Kind::Tiles(own) => own.plan(width, height),
            Kind::Patches(own) => own.plan(width, height),
        }
    }

    /// Numbers of the [`Pixels`] of an image that is cut like this.
    #[cfg(test)]
    pub(super) fn numbers(&self, cut: Cut) -> u64 {
        let (rows, columns) = cut.sides();
        3 * match &self.0 {
            Kind::Tiles(own) => cut.tiles() as u64 * u64::from(own.tile).pow(2),
            Kind::Patches(own) => {
                (rows * columns) as u64 * u64::from(own.frames) * u64::from(own.patch).pow(2)
            }
        }
    }

    /// Decodes and prepares an image.
    ///
    /// Errors: not a PNG, JPEG or WebP; damaged; more bytes or pixels than the limits.
    pub fn prepare(&self, bytes: &[u8], limits: &ImageLimits) -> Result<Pixels, ModelError> {
        self.cut_up(decode::decode(bytes, limits)?)
    }

    /// Decodes an image and prepares what lies in `window` of it, enlarged: left, top, right and bottom as shares of the
    /// upright picture's sides. It is widened to whole pixels, and to one at least; a processor that takes pictures in their
    /// own size is given it as large as the whole picture.
    ///
    /// Errors: as [`ImageProcessor::prepare`]; a window that is not within the picture.
    pub fn prepare_window(
        &self,
        bytes: &[u8],
        window: Window,
        limits: &ImageLimits,
    ) -> Result<Pixels, ModelError> {
        let image = decode::decode(bytes, limits)?;
        let [x, y, width, height] = pixels_of(window, image.width(), image.height())?;
        let part = image::imageops::crop_imm(&image, x, y, width, height).to_image();
        match &self.0 {
            // Tiles are stretched to one size, whatever they are cut from.
            Kind::Tiles(own) => own.prepare(part),
            Kind::Patches(own) if own.resize => {
                let (wide, high) = (image.width(), image.height());
                own.prepare(stretch(&part, wide, high, own.filter)?)
            }
            Kind::Patches(own) => own.prepare(part),
        }
    }

    fn cut_up(&self, image: RgbImage) -> Result<Pixels, ModelError> {
        match &self.0 {
            Kind::Tiles(own) => own.prepare(image),
            Kind::Patches(own) => own.prepare(image),
        }
    }
}

/// Part of a picture: left, top, right and bottom as shares of its sides, in [0, 1].
pub type Window = [f32; 4];

/// Left, top, width and height in pixels of a window of a picture of `width` x `height`.
fn pixels_of(window: Window, width: u32, height: u32) -> Result<[u32; 4], ModelError> {
    let [left, top, right, bottom] = window;
    let inside = window.iter().all(|share| (0.0..=1.0).contains(share));
    if !inside || left >= right || top >= bottom {
        let what = format!("the window {window:?} is not a part of the image");
        return Err(ModelError::image(
            what,
            "give left, top, right and bottom as shares in [0, 1], in order",
        ));
    }
    let span = |from: f32, to: f32, side: u32| {
        let first = ((from * side as f32).floor() as u32).min(side - 1);
        let end = ((to * side as f32).ceil() as u32).clamp(first + 1, side);
        (first, end - first)
    };
    let ((x, wide), (y, high)) = (span(left, right, width), span(top, bottom, height));
    Ok([x, y, wide, high])
}

/// Pixels of a picture that is being prepared at most, whatever its file or the processor's ask for.
const MAX_PIXELS: u64 = 1 << 26;
/// Numbers of [`Pixels`] at most: two frames of the most pixels, three channels each.
#[cfg(test)]
pub(super) const MAX_NUMBERS: u64 = 6 * MAX_PIXELS;

/// The picture at `width x height`. Rows are stretched first, so a tall picture is in between as wide as the result and
/// as tall as it was.
fn stretch(image: &RgbImage, width: u32, height: u32, filter: Filter) -> Result<RgbImage, ModelError> {
    if u64::from(width) * u64::from(image.height()) > MAX_PIXELS {
        let what = format!(
            "{}x{} cannot be made {width}x{height}: it is too elongated",
            image.width(),
            image.height()
        );
        return Err(ModelError::image(what, "send a smaller or less elongated image"));
    }
    Ok(resize(image, width, height, filter))
}

/// A resampling filter by the number in a configuration.
fn resampling(number: i64) -> Result<Filter, String> {
    Filter::from_number(number).ok_or_else(|| format!("resample {number} is not built in"))
}

#[cfg(test)]
mod tests {
    use super::decode::decode;
    use super::*;
    use image::ImageFormat;
    use std::io::Cursor;

    fn processor(json: serde_json::Value) -> ImageProcessor {
        ImageProcessor::from_json(Path::new("preprocessor_config.json"), Family::SmolVlm, json)
            .expect("valid")
    }

    #[test]
    fn a_window_is_whole_pixels_and_what_lies_in_it_is_what_is_prepared() {
        assert_eq!(pixels_of([0.0, 0.0, 1.0, 1.0], 7, 5).expect("all of it"), [0, 0, 7, 5]);
        assert_eq!(pixels_of([0.5, 0.25, 1.0, 0.5], 8, 8).expect("a part"), [4, 2, 4, 2]);
        assert_eq!(pixels_of([0.9, 0.0, 0.91, 1.0], 3, 1).expect("a sliver"), [2, 0, 1, 1]);
        for bad in [[0.5, 0.0, 0.5, 1.0], [0.0, -0.1, 1.0, 1.0], [0.0, 0.0, f32::NAN, 1.0]] {
            let error = pixels_of(bad, 8, 8).expect_err("no part").to_string();
            assert!(error.contains("shares in [0, 1]"), "{error}");
        }
        let whole = RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * 4) as u8, (y * 4) as u8, 9]));
        let part = image::imageops::crop_imm(&whole, 32, 16, 16, 32).to_image();
        let png = |image: &RgbImage| {
            let mut bytes = Cursor::new(Vec::new());
            image.write_to(&mut bytes, ImageFormat::Png).expect("memory");
            bytes.into_inner()
        };
        let limits = ImageLimits::default();
        let window = small().prepare_window(&png(&whole), [0.5, 0.25, 0.75, 0.75], &limits).expect("a part");
        assert_eq!(window, small().prepare(&png(&part), &limits).expect("a picture"));
    }

    fn small() -> ImageProcessor {
        processor(serde_json::json!({"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 32},
            "do_image_splitting": false}))
    }

    fn encoded(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).expect("encodes");
        bytes.into_inner()
    }

    const FORMATS: [ImageFormat; 3] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP];

    #[test]
    fn every_format_becomes_one_normalised_square() {
        for format in FORMATS {
            let pixels =
                small().prepare(&encoded(50, 20, format), &ImageLimits::default()).expect("an image");
            assert_eq!((pixels.cut, pixels.shape), (Cut::WHOLE, vec![1, 3, 32, 32]));
            assert_eq!(pixels.data.len(), 3 * 32 * 32);
            assert!(pixels.data.iter().all(|v| (-1.0..=1.0).contains(v)), "{format:?}");
        }
    }

    #[test]
    fn a_wide_image_is_split_into_tiles_and_the_whole() {
        let settings =
            serde_json::json!({"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 16}});
        let pixels = processor(settings).prepare(&encoded(50, 20, FORMATS[0]), &ImageLimits::default());
        let pixels = pixels.expect("an image");
        assert_eq!(pixels.cut, Cut::Tiles { rows: 2, columns: 4 });
        assert_eq!(pixels.data.len(), 9 * 3 * 16 * 16);
    }

    #[test]
    fn the_header_alone_tells_how_an_image_will_be_cut() {
        let settings =
            serde_json::json!({"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 16}});
        let splitting = processor(settings);
        for (width, height) in [(50, 20), (20, 50), (16, 16), (3, 200), (64, 64)] {
            for format in FORMATS {
                let bytes = encoded(width, height, format);
                let whole = splitting.prepare(&bytes, &ImageLimits::default()).expect("an image");
                let tiles = splitting.cut(&bytes).expect("a header");
                assert_eq!(tiles, whole.cut, "{width}x{height} {format:?}");
                assert_eq!(small().cut(&bytes).expect("never split"), Cut::WHOLE);
            }
        }
        let png = encoded(50, 20, ImageFormat::Png);
        assert_eq!(splitting.cut(&png[..60]).expect("a header"), Cut::Tiles { rows: 2, columns: 4 });
        assert!(splitting.cut(b"no image").is_err());
        let exif =
            b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let plain = encoded(50, 20, ImageFormat::Jpeg);
        let turned = [&plain[..2], exif, &plain[2..]].concat();
        let whole = splitting.prepare(&turned, &ImageLimits::default()).expect("an image");
        assert_eq!(splitting.cut(&turned).expect("a header"), whole.cut);
        assert_eq!(whole.cut, Cut::Tiles { rows: 4, columns: 2 });
    }

    #[test]
    fn damaged_bytes_are_errors_and_never_panics() {
        for format in FORMATS {
            let good = encoded(40, 30, format);
            for cut in [0, 1, 7, 20, good.len() / 2] {
                assert!(
                    small().prepare(&good[..cut], &ImageLimits::default()).is_err(),
                    "{format:?} cut at {cut}"
                );
            }
            for place in 0..good.len() {
                let mut bad = good.clone();
                bad[place] ^= 0x5a;
                // Some damage is harmless (metadata, a colour); it must not panic.
                let _ = small().prepare(&bad, &ImageLimits::default());
            }
        }
        assert!(small().prepare(b"GIF89a\x01\x00\x01\x00", &ImageLimits::default()).is_err());
    }

    #[test]
    fn limits_hold_before_memory_is_spent() {
        let bytes = encoded(40, 30, ImageFormat::Png);
        let few = ImageLimits { max_pixels: 1199, ..Default::default() };
        assert!(small().prepare(&bytes, &few).expect_err("refused").to_string().contains("40x30"));
        assert!(small().prepare(&bytes, &ImageLimits { max_pixels: 1200, ..few }).is_ok());
        let short = ImageLimits { max_bytes: bytes.len() - 1, ..Default::default() };
        assert!(small().prepare(&bytes, &short).expect_err("refused").to_string().contains("bytes"));
        // A PNG header that promises 60000 x 60000 pixels in a few bytes.
        let mut bomb = bytes.clone();
        bomb[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        bomb[20..24].copy_from_slice(&60_000u32.to_be_bytes());
        assert!(small().prepare(&bomb, &ImageLimits::default()).is_err());
    }

    #[test]
    fn a_picture_taken_sideways_is_turned_upright() {
        // An EXIF block with one entry, orientation (0x0112) 6: turn by 90 degrees clockwise.
        let exif =
            b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let plain = encoded(40, 16, ImageFormat::Jpeg);
        let turned = [&plain[..2], exif, &plain[2..]].concat();
        let size = |bytes: &[u8]| decode(bytes, &ImageLimits::default()).expect("an image").dimensions();
        assert_eq!((size(&plain), size(&turned)), ((40, 16), (16, 40)));
    }

    #[test]
    fn transparent_pixels_become_white() {
        let clear = image::RgbaImage::from_pixel(8, 8, image::Rgba([0, 0, 0, 0]));
        let mut bytes = Cursor::new(Vec::new());
        clear.write_to(&mut bytes, ImageFormat::Png).expect("encodes");
        let pixels = small().prepare(bytes.get_ref(), &ImageLimits::default()).expect("an image");
        assert!(pixels.data.iter().all(|&v| (v - 1.0).abs() < 1e-6));
    }
}
