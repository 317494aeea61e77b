//! Whether bytes are an image that may be taken in: real, whole, of a known type, within bounds.
//!
//! Invariant: everything that passes here decodes; nothing larger than the limits is ever decoded to find that out.

use crate::settings::Images;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// Decodes `bytes` once and says what they are, or what is wrong with them.
pub(super) fn check(bytes: &[u8], limits: &Images) -> Result<ImageFormat, String> {
    if bytes.is_empty() {
        return Err("is empty: send the file's bytes".to_owned());
    }
    if bytes.len() > limits.max_bytes {
        let (n, max) = (bytes.len(), limits.max_bytes);
        return Err(format!("has {n} bytes, at most {max} are allowed: scale it down"));
    }
    let format = format(bytes)?;
    let broken = |error: image::ImageError| format!("cannot be decoded: {error}; send a whole file");
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut bounds = Limits::default();
    // The largest sample a decoder here makes is four channels of two bytes; as much again for its own buffers.
    bounds.max_alloc = Some(limits.max_pixels.saturating_mul(16).max(1 << 20));
    reader.limits(bounds);
    let decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > limits.max_pixels {
        let max = limits.max_pixels;
        return Err(format!("is {width} x {height} pixels, at most {max} pixels are allowed: scale it down"));
    }
    DynamicImage::from_decoder(decoder).map_err(broken)?;
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err("cannot be decoded: it ends early; send a whole file".to_owned());
    }
    Ok(format)
}

/// What the file is, by its first bytes.
pub(super) fn format(bytes: &[u8]) -> Result<ImageFormat, String> {
    match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => Ok(format),
        _ => Err("is no PNG, JPEG or WebP file: convert it".to_owned()),
    }
}

/// Whether a file is what its client says; an empty `stated` says nothing.
pub(super) fn check_type(stated: &str, format: ImageFormat) -> Result<(), String> {
    if stated.is_empty() || same_type(stated, format) {
        return Ok(());
    }
    Err(format!("is stated to be {stated} but is {}: correct one of the two", format.to_mime_type()))
}

fn same_type(stated: &str, format: ImageFormat) -> bool {
    let stated = stated.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    stated == format.to_mime_type() || (stated == "image/jpg" && format == ImageFormat::Jpeg)
}

/// The decoder fills a cut-off JPEG with grey and calls it good: look for the end mark after the last scan.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let last = |mark: u8| bytes.windows(2).rposition(|pair| pair == [0xFF, mark]);
    last(0xD9) > last(0xDA)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn file(format: ImageFormat, side: u32) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let pixels = image::RgbImage::from_fn(side, side, |x, y| image::Rgb([x as u8, y as u8, 77]));
        DynamicImage::ImageRgb8(pixels).write_to(&mut bytes, format).expect("an encodable image");
        bytes.into_inner()
    }

    const BOUNDS: Images = Images { max_bytes: 100_000, max_pixels: 64 * 64 };

    #[test]
    fn whole_files_of_the_three_types_pass() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            assert_eq!(check(&file(format, 64), &BOUNDS), Ok(format));
            check_type(format.to_mime_type(), format).expect("rightly stated");
            check_type("", format).expect("nothing is stated");
        }
    }

    #[test]
    fn broken_huge_and_mislabelled_files_are_refused_with_what_to_do() {
        let png = file(ImageFormat::Png, 64);
        let refusal = |bytes: &[u8]| check(bytes, &BOUNDS).expect_err("a refusal");
        assert!(refusal(&[]).contains("empty"));
        assert!(refusal(b"hello").contains("no PNG"));
        assert!(refusal(&png[..png.len() / 2]).contains("cannot be decoded"));
        let jpeg = file(ImageFormat::Jpeg, 64);
        assert!(refusal(&jpeg[..jpeg.len() - 40]).contains("cannot be decoded"));
        let stated = check_type("image/jpeg", ImageFormat::Png).expect_err("a refusal");
        assert!(stated.contains("is image/png"));
        assert!(refusal(&file(ImageFormat::Png, 65)).contains("65 x 65"));
        assert!(refusal(&vec![0; 100_001]).contains("100001 bytes"));
        let gif = b"GIF89a\x01\x00\x01\x00\x00\x00\x00;";
        assert!(refusal(gif).contains("convert"));
    }
}
