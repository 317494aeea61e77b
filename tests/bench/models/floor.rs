//! What the machine allows: reading memory, reading a file.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

/// Seconds to read `bytes` of memory once with all cores of the benchmark: the median of several sums over as much.
pub fn seconds_to_read(bytes: u64) -> f64 {
    let words = vec![1u64; (bytes / 8) as usize];
    let mut seconds: Vec<f64> = (0..9)
        .map(|_| {
            let start = Instant::now();
            let halves = words.split_at(words.len() / 2);
            let sum = std::thread::scope(|scope| {
                let other = scope.spawn(|| sum(halves.1));
                sum(halves.0).wrapping_add(other.join().expect("a sum"))
            });
            std::hint::black_box(sum);
            start.elapsed().as_secs_f64()
        })
        .collect();
    crate::report::quantile(&mut seconds, 0.5)
}

/// A sum in eight lanes, so that memory and not the adder is waited for.
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0u64; 8];
    for chunk in words.chunks_exact(8) {
        lanes.iter_mut().zip(chunk).for_each(|(lane, word)| *lane = lane.wrapping_add(*word));
    }
    lanes.iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// Seconds to read a folder's weights into memory by plain reads.
pub fn seconds_to_load(folder: &Path) -> anyhow::Result<f64> {
    let start = Instant::now();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "safetensors") {
            let mut bytes = Vec::with_capacity(std::fs::metadata(&path)?.len() as usize);
            std::fs::File::open(&path)?.read_to_end(&mut bytes)?;
            std::hint::black_box(&bytes);
        }
    }
    Ok(start.elapsed().as_secs_f64())
}
