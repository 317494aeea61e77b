//! What this process holds of a device's memory, as the system measures it.
//!
//! Of a CPU: the resident set of the whole process. Of CUDA: what the tensor library's allocator has in tensors; what it
//! keeps for the next ones it gives up before it runs out. Of both the peak since they were last asked to begin anew.
//! Invariant: figures of the system or none, never an estimate (`needs`). Deliberately absent: what follows from them
//! (`room`).

use super::cuda;
use tch::Device;

/// The share of a machine that a service may hold where nothing else is said: the rest is for what runs beside it.
const SHARE: f64 = 0.9;

/// Measures one device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Footprint {
    /// The process's own.
    Process,
    /// The allocator's, of the CUDA device of this number.
    Cuda(usize),
    /// Nobody can tell.
    Unknown,
}

impl Footprint {
    pub fn of(device: Device) -> Self {
        match device {
            Device::Cpu if held().is_some() => Self::Process,
            Device::Cuda(index) if cuda::memory(index).is_some() => Self::Cuda(index),
            _ => Self::Unknown,
        }
    }

    /// Begins a span whose peak is to be known; bytes held at its beginning.
    pub fn begin(self) -> Option<u64> {
        match self {
            Self::Process => {
                // Where the system does not allow it the peak is that of all time, which is no less.
                let _ = std::fs::write("/proc/self/clear_refs", "5");
                held()
            }
            Self::Cuda(index) => {
                cuda::begin(index);
                Some(cuda::memory(index)?.allocated)
            }
            Self::Unknown => None,
        }
    }

    /// Most bytes held since `begin`.
    pub fn peak(self) -> Option<u64> {
        match self {
            Self::Process => kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:"),
            Self::Cuda(index) => Some(cuda::memory(index)?.peak),
            Self::Unknown => None,
        }
    }

    /// Gives back to the system what is held for nothing and counted all the same; of CUDA's nothing is.
    pub fn trim(self) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        if self == Self::Process {
            // SAFETY: malloc_trim may be called at any time and from any thread.
            unsafe { nix::libc::malloc_trim(0) };
        }
    }

    /// What a service may hold where nobody says: most of the machine, or of what its container has; of a CUDA device
    /// most of what is free on it, or already its own.
    pub fn usual_limit(self) -> Option<u64> {
        let most = match self {
            Self::Process => {
                let machine = kilobytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
                let container = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
                    .iter()
                    .find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
                container.map_or(machine, |most| most.min(machine))
            }
            Self::Cuda(index) => {
                let memory = cuda::memory(index)?;
                memory.free + memory.reserved
            }
            Self::Unknown => return None,
        };
        Some((most as f64 * SHARE) as u64)
    }
}

fn held() -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// A line of the system's tables, in bytes.
fn kilobytes(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_measured_and_its_peak_is_that_of_a_span() {
        let footprint = Footprint::of(Device::Cpu);
        let before = footprint.begin().unwrap();
        const BIG: usize = 64 << 20;
        let big = std::hint::black_box(vec![1_u8; BIG]);
        let with = held().unwrap();
        drop(big);
        let peak = footprint.peak().unwrap();
        // The system's own counts are a little behind, each by its own measure.
        let about = with - (4 << 20);
        assert!(peak >= about && with >= before + BIG as u64 / 2, "{before} {with} {peak}");
        assert!(footprint.usual_limit().unwrap() > with);
        footprint.trim();
    }

    #[test]
    fn what_cannot_be_measured_is_not_made_up() {
        let unknown = Footprint::of(Device::Cuda(0));
        assert_eq!(unknown, Footprint::Unknown);
        assert_eq!((unknown.begin(), unknown.peak(), unknown.usual_limit()), (None, None, None));
        assert_eq!(kilobytes("VmHWM:\t  3 kB\n", "VmHWM:"), Some(3072));
        assert_eq!(kilobytes("VmHWM: x kB", "VmHWM:"), None);
    }
}
