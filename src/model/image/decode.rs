//! Bytes to upright RGB pictures, within limits that hold before memory is spent.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

use super::ImageLimits;
use crate::model::ModelError;

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
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ModelError> {
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

/// Width and height of the upright picture, read from its header: the rest may be missing.
pub(super) fn size(bytes: &[u8]) -> Result<(u32, u32), ModelError> {
    let mut decoder =
        ImageReader::with_format(Cursor::new(bytes), format_of(bytes)?).into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = match decoder.orientation().unwrap_or(Orientation::NoTransforms) {
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => (height, width),
        _ => (width, height),
    };
    Ok((width.max(1), height.max(1)))
}
