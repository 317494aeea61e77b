//! One command to the engine's thread: work, a reply, and the span it belongs to.
//!
//! Invariant: a command whose caller is gone is dropped unexecuted; one that panics answers `Panicked`.

use super::thread::Machine;
use super::{EngineError, ForkId};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::sync::oneshot;

/// What a command came to, for the thread's own book-keeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// Answered, well or badly.
    Answered,
    /// Nobody waited for it any more.
    Dropped,
    /// Panicked and answered so.
    Panicked,
}

/// Work with a reply of its own type, behind one face.
trait Task: Send {
    fn run(self: Box<Self>, machine: &mut Machine, name: &'static str) -> Done;
}

struct Call<R, F> {
    reply: oneshot::Sender<Result<R, EngineError>>,
    work: F,
}

impl<R, F> Task for Call<R, F>
where
    R: Send,
    F: FnOnce(&mut Machine) -> Result<R, EngineError> + Send,
{
    fn run(self: Box<Self>, machine: &mut Machine, name: &'static str) -> Done {
        let Self { reply, work } = *self;
        if reply.is_closed() {
            return Done::Dropped;
        }
        // The machine stays usable: weights that serve are never written to, and the fork in use is discarded.
        let (outcome, done) = match catch_unwind(AssertUnwindSafe(|| work(machine))) {
            Ok(outcome) => (outcome, Done::Answered),
            Err(payload) => {
                let message = panic_text(payload.as_ref());
                (Err(EngineError::Panicked { command: name, message }), Done::Panicked)
            }
        };
        // A caller that left meanwhile wants no answer.
        let _ = reply.send(outcome);
        done
    }
}

/// A command in the queue.
pub(super) struct Command {
    name: &'static str,
    fork: Option<ForkId>,
    span: tracing::Span,
    task: Box<dyn Task>,
}

impl Command {
    /// A command and the place where its answer will arrive; `fork` is discarded should it panic.
    pub(super) fn new<R, F>(
        name: &'static str,
        fork: Option<ForkId>,
        work: F,
    ) -> (Self, oneshot::Receiver<Result<R, EngineError>>)
    where
        R: Send + 'static,
        F: FnOnce(&mut Machine) -> Result<R, EngineError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let task = Box::new(Call { reply, work });
        (Self { name, fork, span: tracing::Span::current(), task }, answer)
    }

    /// Runs it on the engine's thread.
    pub(super) fn run(self, machine: &mut Machine) {
        let _span = self.span.enter();
        match self.task.run(machine, self.name) {
            Done::Answered => {}
            Done::Dropped => tracing::debug!(command = self.name, "dropped: its caller is gone"),
            Done::Panicked => {
                machine.after_panic(self.fork);
                tracing::error!(command = self.name, fork = ?self.fork, "a command of the engine panicked");
            }
        }
    }
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without text".to_owned()
    }
}
