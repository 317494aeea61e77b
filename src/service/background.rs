//! Long computations for which nobody waits: on a thread of their own, behind everything else that wants a core.
//!
//! Invariant: annotators who ask meanwhile are scheduled first (the system's nice value; threads that the work starts
//! inherit it). Deliberately absent: anything that waits; a cancelled caller does not stop what has begun.

use crate::domain::{Error, Result};
use tokio::sync::oneshot;

/// How far behind: 10 of 19 leaves a tenth of a core that others want too.
const NICE: i32 = 10;

/// Runs `work` behind everything else.
pub(super) async fn behind<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (done, answer) = oneshot::channel();
    let span = tracing::Span::current();
    let body = move || {
        let _span = span.entered();
        if let Err(error) = rustix::process::nice(NICE) {
            // It is then done beside the others instead of behind them.
            tracing::debug!(%error, "the system does not let this thread stand back");
        }
        // A caller that left meanwhile wants no answer.
        let _ = done.send(work());
    };
    std::thread::Builder::new().name("behind".to_owned()).spawn(body).map_err(Error::internal)?;
    answer.await.map_err(|_| Error::internal("a computation in the background panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_nice() -> i32 {
        // A change of 0 tells what it is.
        rustix::process::nice(0).expect("a nice value")
    }

    #[tokio::test]
    async fn what_is_done_behind_is_nice_and_its_caller_is_not() {
        let before = own_nice();
        let there = behind(own_nice).await.expect("an answer");
        let child =
            behind(|| std::thread::spawn(own_nice).join().expect("a thread")).await.expect("an answer");
        assert_eq!((there, child, own_nice()), ((before + NICE).min(19), (before + NICE).min(19), before));
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let error = behind(|| panic!("on purpose")).await.expect_err("no answer");
        assert!(
            error.to_string().contains("internal") || format!("{error:?}").contains("panicked"),
            "{error:?}"
        );
    }
}
