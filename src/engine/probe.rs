//! Looks at the tensor library, the device and a model folder without starting an engine: for `doctor` and benchmarks.

use super::footprint::Footprint;
use super::{EngineError, device};
use crate::model::Checkpoint;
use std::{path::Path, time::Instant};
use tch::{Device, Kind, Tensor};

/// Side of the square matrices of [`matmul_rate`].
const SIDE: i64 = 1024;

/// Multiply-add rate of float32 matrix products on the CPU, operations per second (a multiply and an add are two).
///
/// The median of `repeats` products of two 1024 x 1024 matrices with `threads` threads (0: the library's choice).
pub fn matmul_rate(threads: usize, repeats: usize) -> f64 {
    if threads > 0 {
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    }
    let a = Tensor::randn([SIDE, SIDE], (Kind::Float, Device::Cpu));
    let b = Tensor::randn([SIDE, SIDE], (Kind::Float, Device::Cpu));
    let _warm = a.matmul(&b);
    let mut seconds: Vec<f64> = (0..repeats.max(1))
        .map(|_| {
            let start = Instant::now();
            let product = a.matmul(&b);
            std::hint::black_box(&product);
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    2.0 * (SIDE as f64).powi(3) / seconds[seconds.len() / 2]
}

/// Opens the device of the settings, and says what it is.
///
/// # Errors
/// `Device`, with the cure.
pub fn device(name: &str) -> Result<String, EngineError> {
    let opened = device::open(name)?;
    let sum = Tensor::ones([8], (Kind::Float, opened)).sum(Kind::Float).double_value(&[]);
    if sum == 8.0 {
        return Ok(format!("{name} computes"));
    }
    Err(EngineError::Device { device: name.to_owned(), reason: format!("eight ones sum to {sum} on it") })
}

/// A span of this process on a device, whose peak of memory is to be known.
#[derive(Debug)]
pub struct Span(Footprint);

impl Span {
    /// Begins it on a device that was opened.
    pub fn begin(device: Device) -> Self {
        let footprint = Footprint::of(device);
        footprint.begin();
        Self(footprint)
    }

    /// Most bytes held since: resident on a CPU, in tensors on CUDA; none where the system does not say.
    pub fn peak(&self) -> Option<u64> {
        self.0.peak()
    }
}

/// Reads a model folder, and says what is in it.
///
/// # Errors
/// `Load`, with what is wrong and the cure.
pub fn model(folder: &Path) -> Result<String, EngineError> {
    let load = |e: crate::model::ModelError| EngineError::Load {
        folder: folder.display().to_string(),
        reason: e.to_string(),
    };
    let checkpoint = Checkpoint::open(folder).map_err(load)?;
    let model = checkpoint.build(Device::Cpu, Kind::Float).map_err(load)?;
    Ok(format!("{:.2} M parameters, loads and fits its configuration", model.parameters() as f64 / 1e6))
}
