//! The bytes of images.

use std::io::Cursor;

use image::{ImageFormat, RgbImage};
use proptest::prelude::*;

use super::damage::{tears, torn};
use super::{cases, golden};
use crate::model::{Config, ImageLimits, Processor};

const FORMATS: [ImageFormat; 3] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP];
/// An EXIF block with one entry, orientation 6: turn by 90 degrees clockwise.
const SIDEWAYS: &[u8] =
    b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";

pub(super) fn encoded(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("encodes");
    bytes.into_inner()
}

pub(super) fn png(width: u32, height: u32) -> Vec<u8> {
    encoded(width, height, ImageFormat::Png)
}

/// Small, thin and turned pictures.
pub(super) fn odd() -> Vec<Vec<u8>> {
    let plain = encoded(40, 16, ImageFormat::Jpeg);
    let turned = [&plain[..2], SIDEWAYS, &plain[2..]].concat();
    vec![png(1, 1), png(1, 200), png(300, 2), encoded(7, 5, ImageFormat::WebP), turned]
}

pub(super) fn processor(folder: &str) -> Processor {
    let config = Config::open(&golden(folder).join("config.json")).expect("a configuration");
    Processor::with_config(&golden(folder), &config).expect("a processor")
}

/// Room for what is damaged to claim, and no more: a claim within it is decoded.
fn limits() -> ImageLimits {
    ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 16 }
}

proptest! {
    #![proptest_config(cases(700))]

    #[test]
    fn torn_images_are_pixels_or_errors(format in prop::sample::select(&FORMATS[..]), tears in tears(), header in any::<bool>()) {
        let plain = encoded(40, 30, format);
        let plain = match format {
            ImageFormat::Jpeg => [&plain[..2], SIDEWAYS, &plain[2..]].concat(),
            _ => plain,
        };
        let reach = if header { 64 } else { usize::MAX };
        let bytes = torn(&plain, reach, &tears);
        for folder in ["idefics3-odd", "qwen2_5-odd"] {
            let processor = processors(folder);
            let cut = processor.image.cut(&bytes);
            if let Ok(pixels) = processor.decode(&bytes, &limits()) {
                prop_assert_eq!(cut.expect("what decodes can be cut"), pixels.cut);
                prop_assert_eq!(pixels.data.len() as i64, pixels.shape.iter().product::<i64>());
            }
        }
    }
}

/// The processors of the two kinds, read once.
fn processors(folder: &str) -> &'static Processor {
    use std::sync::OnceLock;
    static BOTH: [OnceLock<Processor>; 2] = [OnceLock::new(), OnceLock::new()];
    BOTH[usize::from(folder != "idefics3-odd")].get_or_init(|| processor(folder))
}

#[test]
fn a_header_that_promises_any_size_costs_no_memory() {
    let small = png(40, 30);
    for folder in super::FOLDERS {
        let processor = processor(folder);
        for (width, height) in
            [(u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX), (1 << 31, 1 << 31), (60_000, 60_000), (0, 9)]
        {
            let mut bomb = small.clone();
            bomb[16..20].copy_from_slice(&width.to_be_bytes());
            bomb[20..24].copy_from_slice(&height.to_be_bytes());
            // The header's sum is left wrong or made right: either may be looked at.
            let sum = crc(&bomb[12..29]).to_be_bytes();
            for bytes in [bomb.clone(), [&bomb[..29], &sum, &bomb[33..]].concat()] {
                if let Ok(cut) = processor.image.cut(&bytes) {
                    let _ = processor.prompt_ids("?", &[cut]);
                }
                assert!(processor.decode(&bytes, &ImageLimits::default()).is_err(), "{width}x{height}");
            }
        }
    }
}

/// The sum that ends a PNG's chunk.
fn crc(bytes: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { 0xedb8_8320 ^ (sum >> 1) } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, &byte| (0..8).fold(sum ^ u32::from(byte), |sum, _| step(sum)))
}
