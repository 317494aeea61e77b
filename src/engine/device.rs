//! Opening a device.
//!
//! Invariant: an error names what is missing and the cure.

use super::{EngineError, cuda};
use tch::{Device, Kind, Tensor};

/// The device that the settings name: `cpu`, `cuda` or `cuda:N`.
pub(super) fn open(name: &str) -> Result<Device, EngineError> {
    let refuse = |reason: String| EngineError::Device { device: name.to_owned(), reason };
    let index = match crate::model::device(name) {
        Some(Device::Cuda(index)) => index,
        Some(device) => return Ok(device),
        None => return Err(refuse("write cpu, cuda or cuda:N with N a number".to_owned())),
    };
    cuda::load().map_err(|e| {
        refuse(format!(
            "{e}; install torch 2.11.0 with its CUDA packages where LIBTORCH points to, or set the device to cpu"
        ))
    })?;
    let found = tch::Cuda::device_count();
    if found <= index as i64 {
        return Err(refuse(format!(
            "{found} CUDA devices are visible; check nvidia-smi and CUDA_VISIBLE_DEVICES, or set the device to cpu"
        )));
    }
    // The first tensor makes the allocator, which tells of memory from then on.
    let opened = Device::Cuda(index);
    drop(Tensor::zeros([1], (Kind::Float, opened)));
    Ok(opened)
}

/// The kind of number that `engine.dtype` means on a device, for weights stored as `stored`.
pub(super) fn kind(dtype: &str, device: Device, stored: Kind) -> Result<Kind, EngineError> {
    kind_on(dtype, device != Device::Cpu, stored)
}

/// As [`kind`], for a device that need not be there.
pub(super) fn kind_on(dtype: &str, cuda: bool, stored: Kind) -> Result<Kind, EngineError> {
    Ok(match dtype {
        "auto" if !cuda => Kind::Float,
        "auto" => stored,
        "float32" => Kind::Float,
        "bfloat16" => Kind::BFloat16,
        "float16" => Kind::Half,
        other => {
            let reason = format!("dtype {other:?} is unknown: write auto, float32, bfloat16 or float16");
            return Err(EngineError::Device { device: if cuda { "cuda" } else { "cpu" }.to_owned(), reason });
        }
    })
}

/// The name of a kind of number, as settings write it.
pub(super) fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    }
}

/// Bytes that are free on the device that the settings name; or why it cannot be told.
pub(super) fn free(name: &str) -> Result<u64, String> {
    match open(name).map_err(|e| e.to_string())? {
        Device::Cpu => {
            let text = std::fs::read_to_string("/proc/meminfo").map_err(|e| format!("/proc/meminfo: {e}"))?;
            available(&text).ok_or_else(|| "/proc/meminfo does not say MemAvailable".to_owned())
        }
        Device::Cuda(index) => match cuda::memory(index) {
            Some(memory) => Ok(memory.free),
            None => Err("it opens, but its allocator tells nothing; see nvidia-smi".to_owned()),
        },
        _ => Err("nobody can tell".to_owned()),
    }
}

/// MemAvailable of /proc/meminfo, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_read_or_unknown() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   3 kB\n"), Some(3072));
        assert_eq!((available("MemTotal: 9 kB\n"), available("MemAvailable: x kB")), (None, None));
        assert!(free("cuda:x").unwrap_err().contains("write cpu"));
    }

    #[test]
    fn a_device_that_is_not_there_is_refused_with_the_cure() {
        assert_eq!(open("cpu"), Ok(Device::Cpu));
        let (cpu, cuda) = (Device::Cpu, Device::Cuda(0));
        assert_eq!(kind("auto", cpu, Kind::BFloat16), Ok(Kind::Float), "halves are slow on a CPU");
        assert_eq!(kind("auto", cuda, Kind::BFloat16), Ok(Kind::BFloat16));
        assert_eq!(kind("float16", cpu, Kind::Float), Ok(Kind::Half));
        assert!(kind("int8", cpu, Kind::Float).unwrap_err().to_string().contains("write auto"));
        for name in ["tpu", "cuda:x", "cpu:1"] {
            let text = open(name).map(|_| ()).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains("write cpu"), "{text}");
        }
    }
}
