//! From the bytes of an image to the numbers the tower takes, as SmolVLM's image processor does it.
//!
//! Source: `SmolVLMImageProcessorPil` of transformers: decode, turn upright, RGB on white, resize the longest edge,
//! split into square tiles (or squeeze into one), rescale, normalise.
//! Invariant: limits hold before memory is spent; any bytes give pixels or an error, never a panic.
//! Deliberately absent: padding and its mask, because every tile is a full square; video.

use std::io::Cursor;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use serde::Deserialize;

use super::ModelError;
use super::resize::{Filter, resize};

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

/// The tiles an image was cut into: a grid and the whole image after it, or the whole image only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tiles {
    /// Rows of the grid; 0 when the image is not split.
    pub rows: usize,
    /// Columns of the grid; 0 when the image is not split.
    pub columns: usize,
}

impl Tiles {
    /// An image that is not split.
    pub const WHOLE: Tiles = Tiles { rows: 0, columns: 0 };

    /// Number of squares that the tower sees.
    pub fn count(self) -> usize {
        self.rows * self.columns + 1
    }
}

/// An image ready for the tower: plain numbers, free to cross threads.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// Normalised values, `[tiles, 3, height, width]` row by row.
    pub data: Vec<f32>,
    /// How the image was split.
    pub tiles: Tiles,
    /// Height of a tile in pixels.
    pub height: usize,
    /// Width of a tile in pixels.
    pub width: usize,
}

/// The settings of `preprocessor_config.json`.
#[derive(Debug, Clone)]
pub struct ImageProcessor {
    resize_first: Option<Size>,
    tile: u32,
    split: bool,
    filter: Filter,
    // Per channel: value = byte * gain + shift.
    gain: [f32; 3],
    shift: [f32; 3],
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
    do_rescale: bool,
    rescale_factor: f64,
    do_normalize: bool,
    image_mean: [f64; 3],
    image_std: [f64; 3],
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
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            image_mean: [0.5; 3],
            image_std: [0.5; 3],
        }
    }
}

/// The reference's absolute maximum of a side.
const MAX_SIDE: u32 = 4096;

impl ImageProcessor {
    /// Reads the settings from JSON; `path` is for messages.
    pub(crate) fn from_json(path: &Path, json: serde_json::Value) -> Result<Self, ModelError> {
        let refuse = |what: String| ModelError::folder(path, what, "use the processor of a SmolVLM");
        let file: File = serde_json::from_value(json).map_err(|e| refuse(e.to_string()))?;
        let filter = Filter::from_number(file.resample)
            .ok_or_else(|| refuse(format!("resample {} is not built in", file.resample)))?;
        let sides = match file.size {
            Size::Longest { longest_edge } => [longest_edge, file.max_image_size.longest_edge],
            Size::Exact { height, width } => [height.min(width), file.max_image_size.longest_edge],
        };
        if sides.contains(&0) || file.image_std.contains(&0.0) {
            return Err(refuse("a size or an image_std is zero".into()));
        }
        let scale = if file.do_rescale { file.rescale_factor } else { 1.0 };
        let (mean, std) =
            if file.do_normalize { (file.image_mean, file.image_std) } else { ([0.0; 3], [1.0; 3]) };
        Ok(Self {
            resize_first: file.do_resize.then_some(file.size),
            tile: file.max_image_size.longest_edge,
            split: file.do_image_splitting,
            filter,
            gain: std::array::from_fn(|c| (scale / std[c]) as f32),
            shift: std::array::from_fn(|c| (-mean[c] / std[c]) as f32),
        })
    }

    /// Side of a tile in pixels.
    pub fn tile(&self) -> u32 {
        self.tile
    }

    /// Undoes the normalisation: the value in `0.0..=1.0` that a number of channel `channel` stands for.
    pub fn unit_value(&self, value: f32, channel: usize) -> f32 {
        (value - self.shift[channel]) / (self.gain[channel] * 255.0)
    }

    /// How [`ImageProcessor::prepare`] would cut an image, read from its header: the rest may be missing.
    ///
    /// Errors: not a PNG, JPEG or WebP, or a header that is damaged or not whole.
    pub fn tiles(&self, bytes: &[u8]) -> Result<Tiles, ModelError> {
        if !self.split {
            return Ok(Tiles::WHOLE);
        }
        let mut decoder = ImageReader::with_format(Cursor::new(bytes), format_of(bytes)?)
            .into_decoder()
            .map_err(damaged)?;
        let (width, height) = decoder.dimensions();
        let (width, height) = match decoder.orientation().unwrap_or(Orientation::NoTransforms) {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => (height, width),
            _ => (width, height),
        };
        let (width, height) = self.first_size(width.max(1), height.max(1));
        Ok(self.grid(width, height).2)
    }

    /// Decodes and prepares an image.
    ///
    /// Errors: not a PNG, JPEG or WebP; damaged; more bytes or pixels than the limits.
    pub fn prepare(&self, bytes: &[u8], limits: &ImageLimits) -> Result<Pixels, ModelError> {
        let image = decode(bytes, limits)?;
        let image = match self.resize_first {
            None => image,
            Some(_) => {
                let (width, height) = self.first_size(image.width(), image.height());
                resize(&image, width, height, self.filter)
            }
        };
        let (parts, tiles) = match self.split {
            true => self.cut(&image),
            false => (vec![resize(&image, self.tile, self.tile, self.filter)], Tiles::WHOLE),
        };
        let side = self.tile as usize;
        let mut data = Vec::with_capacity(parts.len() * 3 * side * side);
        for part in &parts {
            for channel in 0..3 {
                let (gain, shift) = (self.gain[channel], self.shift[channel]);
                data.extend(part.as_raw()[channel..].iter().step_by(3).map(|&b| f32::from(b) * gain + shift));
            }
        }
        Ok(Pixels { data, tiles, height: side, width: side })
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
    fn grid(&self, width: u32, height: u32) -> (u32, u32, Tiles) {
        let tile = self.tile;
        let up = |n: u32| n.div_ceil(tile) * tile;
        let aspect = f64::from(width) / f64::from(height);
        let (width, height) = match width >= height {
            true => (up(width), up((f64::from(up(width)) / aspect) as u32)),
            false => (up((f64::from(up(height)) * aspect) as u32), up(height)),
        };
        let (width, height) = (width.max(tile), height.max(tile));
        if width <= tile && height <= tile {
            return (width, height, Tiles::WHOLE);
        }
        (width, height, Tiles { rows: (height / tile) as usize, columns: (width / tile) as usize })
    }

    /// Stretches to whole tiles, cuts, and appends the whole image at tile size.
    fn cut(&self, image: &RgbImage) -> (Vec<RgbImage>, Tiles) {
        let tile = self.tile;
        let (width, height, tiles) = self.grid(image.width(), image.height());
        let image = resize(image, width, height, self.filter);
        if tiles == Tiles::WHOLE {
            return (vec![image], tiles);
        }
        let corners = (0..height / tile).flat_map(|r| (0..width / tile).map(move |c| (c * tile, r * tile)));
        let mut parts: Vec<RgbImage> =
            corners.map(|(x, y)| image::imageops::crop_imm(&image, x, y, tile, tile).to_image()).collect();
        parts.push(resize(&image, tile, tile, self.filter));
        (parts, tiles)
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

fn damaged(error: image::ImageError) -> ModelError {
    ModelError::image(error, "send an undamaged PNG, JPEG or WebP")
}

fn format_of(bytes: &[u8]) -> Result<ImageFormat, ModelError> {
    match image::guess_format(bytes).map_err(damaged)? {
        format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP) => Ok(format),
        other => {
            let what = format!("the format {other:?} is not read");
            Err(ModelError::image(what, "send a PNG, JPEG or WebP"))
        }
    }
}

/// Decodes within the limits, upright, RGB on white.
fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ModelError> {
    if bytes.len() > limits.max_bytes {
        let what = format!("{} bytes are more than the {} allowed", bytes.len(), limits.max_bytes);
        return Err(ModelError::image(what, "send a smaller file or raise the limit on bytes"));
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format_of(bytes)?);
    let mut room = image::Limits::default();
    // Sixteen bits and four channels, twice: what a decoder may need at worst for an image within the limit.
    room.max_alloc = Some(limits.max_pixels.saturating_mul(16).saturating_add(1 << 20));
    reader.limits(room);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > limits.max_pixels {
        let what = format!("{width}x{height} is {pixels} pixels, allowed are 1 to {}", limits.max_pixels);
        return Err(ModelError::image(what, "send a smaller image or raise the limit on pixels"));
    }
    // A broken EXIF block is no reason to refuse a good picture.
    let upright = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(upright);
    Ok(match image.color().has_alpha() {
        true => on_white(&image.to_rgba8()),
        false => image.to_rgb8(),
    })
}

fn on_white(image: &image::RgbaImage) -> RgbImage {
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [r, g, b, a] = image.get_pixel(x, y).0;
        let blend = |c: u8| {
            let a = u32::from(a);
            ((u32::from(c) * a + 255 * (255 - a) + 127) / 255) as u8
        };
        image::Rgb([blend(r), blend(g), blend(b)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(json: serde_json::Value) -> ImageProcessor {
        ImageProcessor::from_json(Path::new("preprocessor_config.json"), json).expect("valid")
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
            assert_eq!((pixels.tiles, pixels.height, pixels.width), (Tiles::WHOLE, 32, 32));
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
        assert_eq!(pixels.tiles, Tiles { rows: 2, columns: 4 });
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
                let tiles = splitting.tiles(&bytes).expect("a header");
                assert_eq!(tiles, whole.tiles, "{width}x{height} {format:?}");
                assert_eq!(small().tiles(&bytes).expect("never split"), Tiles::WHOLE);
            }
        }
        let png = encoded(50, 20, ImageFormat::Png);
        assert_eq!(splitting.tiles(&png[..60]).expect("a header"), Tiles { rows: 2, columns: 4 });
        assert!(splitting.tiles(b"no image").is_err());
        let exif =
            b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let plain = encoded(50, 20, ImageFormat::Jpeg);
        let turned = [&plain[..2], exif, &plain[2..]].concat();
        let whole = splitting.prepare(&turned, &ImageLimits::default()).expect("an image");
        assert_eq!(splitting.tiles(&turned).expect("a header"), whole.tiles);
        assert_eq!(whole.tiles, Tiles { rows: 4, columns: 2 });
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

    #[test]
    fn the_longest_edge_is_rounded_as_in_the_reference() {
        // 100 x 67 to 64: 64 / (100/67) = 42.88 -> 42, even.  100 x 65: 41.6 -> 41 -> 42.
        assert_eq!(longest(100, 67, 64), (64, 42));
        assert_eq!(longest(65, 100, 64), (42, 64));
        assert_eq!(longest(1, 1000, 64), (1, 64));
    }
}
