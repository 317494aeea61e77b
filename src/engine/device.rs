//! Opening a device.
//!
//! One build serves both: the binary links the CPU library only, and CUDA's kernels register themselves when their
//! library is loaded at start. Invariant: an error names what is missing and the cure.

use super::EngineError;
use std::ffi::CStr;
use tch::{Device, Kind};

const CUDA_LIBRARY: &CStr = c"libtorch_cuda.so";

/// The device that the settings name: `cpu`, `cuda` or `cuda:N`.
pub(super) fn open(name: &str) -> Result<Device, EngineError> {
    let refuse = |reason: String| EngineError::Device { device: name.to_owned(), reason };
    let index = match name.split_once(':') {
        None if name == "cpu" => return Ok(Device::Cpu),
        None if name == "cuda" => 0,
        Some(("cuda", index)) => index
            .parse::<usize>()
            .map_err(|_| refuse("write cpu, cuda or cuda:N with N a number".to_owned()))?,
        _ => return Err(refuse("write cpu, cuda or cuda:N".to_owned())),
    };
    load_cuda().map_err(|e| {
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
    Ok(Device::Cuda(index))
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
        // The bindings do not ask CUDA for it.
        _ => Err("it opens; see nvidia-smi for what is free on it".to_owned()),
    }
}

/// MemAvailable of /proc/meminfo, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn load_cuda() -> Result<(), String> {
    use nix::libc::{RTLD_GLOBAL, RTLD_NOW, dlerror, dlopen};
    // SAFETY: the name is a valid C string; libtorch's own library has no initialiser that needs more than this; its
    // handle is never closed, as its kernels stay registered until the process ends.
    let handle = unsafe { dlopen(CUDA_LIBRARY.as_ptr(), RTLD_NOW | RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror returns null or a C string that lives until this thread's next dl call.
    let reason = unsafe {
        let text = dlerror();
        if text.is_null() {
            "unknown reason".into()
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    };
    Err(format!("{} cannot be loaded ({reason})", CUDA_LIBRARY.to_string_lossy()))
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
