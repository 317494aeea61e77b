//! Long computations for which nobody waits: on a thread of their own, behind everything else that wants a core.
//!
//! Invariant: annotators who ask meanwhile are scheduled first (`priority`; threads that the work starts inherit it).
//! What computes goes on when its caller leaves; what reads stops at the next row.

use crate::domain::{Error, Result};
use crate::priority;
use std::future::Future;
use tokio::{runtime::Handle, sync::oneshot};

/// Runs `work` behind everything else.
pub(super) async fn behind<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (done, answer) = oneshot::channel();
    thread(move || {
        // A caller that left meanwhile wants no answer.
        let _ = done.send(work());
    })?;
    answer.await.map_err(|_| panicked())
}

/// Runs `work`, which waits for the database or the blob store now and then, behind everything else: what it makes of
/// every row is made there too, not on the threads that answer annotators.
pub(super) async fn reading<T: Send + 'static, F: Future<Output = Result<T>>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T> {
    let (mut done, answer) = oneshot::channel();
    let runtime = Handle::current();
    thread(move || {
        let read = runtime.block_on(async {
            tokio::select! {
                read = work() => Some(read),
                () = done.closed() => None,
            }
        });
        let _ = read.map(|read| done.send(read));
    })?;
    answer.await.map_err(|_| panicked())?
}

fn panicked() -> Error {
    Error::internal("a computation in the background panicked")
}

fn thread(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let span = tracing::Span::current();
    let body = move || {
        let _span = span.entered();
        if let Err(error) = priority::stand_back(priority::BEHIND) {
            // It is then done beside the others instead of behind them.
            tracing::debug!(%error, "the system does not let this thread stand back");
        }
        work();
    };
    std::thread::Builder::new().name("behind".to_owned()).spawn(body).map_err(Error::internal)?;
    Ok(())
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
        assert_eq!(
            (there, child, own_nice()),
            (
                (before + i32::from(priority::BEHIND)).min(19),
                (before + i32::from(priority::BEHIND)).min(19),
                before
            )
        );
    }

    #[tokio::test]
    async fn what_reads_behind_waits_for_the_runtime_and_ends_with_its_caller() {
        let (ask, asked) = oneshot::channel::<i32>();
        let (tell, told) = oneshot::channel();
        let read = tokio::spawn(reading(move || async move {
            let _ = tell.send(own_nice());
            asked.await.map_err(Error::internal)
        }));
        let before = own_nice();
        assert_eq!(told.await, Ok((before + i32::from(priority::BEHIND)).min(19)));
        ask.send(7).expect("somebody waits");
        assert_eq!(read.await.expect("no panic").expect("an answer"), 7);

        let (mut alive, gone) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let read = tokio::spawn(reading(move || async move {
            let _ = tell.send(());
            gone.await.map_err(Error::internal)
        }));
        told.await.expect("it began");
        read.abort();
        alive.closed().await;
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
