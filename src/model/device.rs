//! The names of devices, as settings write them.
//!
//! Deliberately absent: whether a device is there and how it is opened, which the engine knows.

use tch::Device;

/// The device called `cpu`, `cuda` (the first) or `cuda:N`; none for another name.
pub fn device(name: &str) -> Option<Device> {
    match name.split_once(':') {
        None if name == "cpu" => Some(Device::Cpu),
        None if name == "cuda" => Some(Device::Cuda(0)),
        Some(("cuda", index)) => index.parse().ok().map(Device::Cuda),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_device_or_none() {
        assert_eq!([device("cpu"), device("cuda")], [Some(Device::Cpu), Some(Device::Cuda(0))]);
        assert_eq!(device("cuda:3"), Some(Device::Cuda(3)));
        for name in ["tpu", "cuda:x", "cpu:1", "cuda:", ""] {
            assert_eq!(device(name), None, "{name}");
        }
    }
}
