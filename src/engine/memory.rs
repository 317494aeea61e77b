//! Running out of memory, told apart from every other failure.
//!
//! The tensor library tells it by a panic with a text of its own. Invariant: only that is caught here, and it is counted
//! (`active_vlm_out_of_memory_total`) and logged; any other panic goes on.
//! Deliberately absent: what to do about it, which is the caller's to know.

use super::{EngineError, ItemError};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The memory did not suffice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spent;

/// What the allocators of the CPU and of CUDA say.
const WORDS: [&str; 3] = ["out of memory", "can't allocate memory", "not enough memory"];

/// Whether a text of the tensor library says that memory did not suffice.
pub(super) fn says(text: &str) -> bool {
    WORDS.iter().any(|words| text.contains(words))
}

/// Runs `work`; what it had allocated is freed when it returns [`Spent`].
pub(super) fn spent<R>(work: impl FnOnce() -> R) -> Result<R, Spent> {
    // Weights are only read, and a pass owns everything else it touches: nothing half-done is left to be seen.
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or(payload.downcast_ref::<&str>().copied()).unwrap_or_default();
        if !says(text) {
            resume_unwind(payload);
        }
        note();
        Spent
    })
}

/// One outcome per item, or why there is none of any.
pub(super) type Each<R> = Result<Vec<Result<R, ItemError>>, EngineError>;

/// `work` on a batch; where memory does not suffice, on its halves one after the other. An item that does not fit alone is
/// its own error.
pub(super) fn halving<T, R>(batch: &[T], work: &mut dyn FnMut(&[T]) -> Each<R>) -> Each<R> {
    match spent(|| work(batch)) {
        Ok(done) => done,
        Err(Spent) if batch.len() == 1 => Ok(vec![Err(ItemError::OutOfMemory)]),
        Err(Spent) => {
            let (first, second) = batch.split_at(batch.len() / 2);
            let mut done = halving(first, work)?;
            done.extend(halving(second, work)?);
            Ok(done)
        }
    }
}

/// Counts and logs it.
pub(super) fn note() {
    metrics::counter!("active_vlm_out_of_memory_total").increment(1);
    tracing::warn!(
        "out of memory: going on with half as many rows at once; a lower engine.token_budget avoids the detour"
    );
}

/// In tests: fails as the tensor library does where a pass has more rows than the thread allows.
#[cfg(not(test))]
pub(super) fn rehearse(_rows: usize) {}

#[cfg(test)]
pub(super) use rehearsal::{allow, rehearse};

#[cfg(test)]
mod rehearsal {
    use std::cell::Cell;

    thread_local! { static MOST: Cell<usize> = const { Cell::new(usize::MAX) }; }

    /// Rows of a pass that memory suffices for, from now on and on this thread.
    pub fn allow(rows: usize) {
        MOST.set(rows);
    }

    pub fn rehearse(rows: usize) {
        if rows > MOST.get() {
            panic!(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EngineConfig, device};
    use super::*;
    use tch::{Kind, Tensor};

    #[test]
    fn only_a_lack_of_memory_is_caught() {
        assert_eq!(spent(|| 3), Ok(3));
        assert_eq!(spent(|| panic!("CUDA out of memory. Tried to allocate 2 GiB")), Err::<(), _>(Spent));
        let other = catch_unwind(|| spent(|| panic!("shapes do not match")));
        assert!(other.is_err(), "another panic goes on");
    }

    #[test]
    fn what_the_devices_own_allocator_says_is_understood_and_the_device_goes_on() {
        let device = device::open(&EngineConfig::tested().device).expect("the tested device opens");
        let ask = |scalars: i64| spent(|| Tensor::zeros([scalars], (Kind::Float, device)).numel());
        // More than any address space holds.
        assert_eq!(ask(1 << 50), Err(Spent));
        assert_eq!(ask(8), Ok(8));
    }
}
