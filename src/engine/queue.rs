//! The bounded queue between the handles and the engine's thread.
//!
//! Invariant: no lane ever holds more than `capacity` commands. Urgent commands go first; scoring and training take
//! turns, so that neither starves the other; idle ones go when nothing else waits. Deliberately absent: any knowledge of what a command does.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How soon a command is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Somebody waits at a screen, or the command is short: before all others.
    Urgent,
    /// Scoring and evaluation: takes turns with training.
    Score,
    /// Training steps: take turns with scoring.
    Train,
    /// Nobody waits for it: only when all other lanes are empty.
    Idle,
}

/// Why a command was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// The lane is full.
    Full,
    /// The queue is closed.
    Closed,
}

struct Lanes<T> {
    lanes: [VecDeque<T>; 4],
    score_had_last_turn: bool,
    closed: bool,
}

/// A bounded multi-lane queue; any thread may push, one pops.
pub struct Queue<T> {
    state: Mutex<Lanes<T>>,
    arrived: Condvar,
    capacity: usize,
}

impl<T> Queue<T> {
    /// An empty queue of at most `capacity` commands per lane (at least one).
    pub fn new(capacity: usize) -> Self {
        let state = Lanes {
            lanes: [VecDeque::new(), VecDeque::new(), VecDeque::new(), VecDeque::new()],
            score_had_last_turn: false,
            closed: false,
        };
        Self { state: Mutex::new(state), arrived: Condvar::new(), capacity: capacity.max(1) }
    }

    /// Adds `item` at the end of its lane, without waiting.
    pub fn push(&self, lane: Lane, item: T) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        let queue = &mut state.lanes[lane as usize];
        if queue.len() >= self.capacity {
            return Err(Refused::Full);
        }
        queue.push_back(item);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits for the next command; none once the queue is closed (what still waits is dropped with the queue).
    pub fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(item) = state.next() {
                return Some(item);
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes no more commands and drops those that wait, which tells their callers.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let waiting = std::mem::take(&mut state.lanes);
        drop(state);
        self.arrived.notify_all();
        drop(waiting);
    }

    /// Whether `close` was called.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Commands waiting in all lanes.
    pub fn len(&self) -> usize {
        self.lock().lanes.iter().map(VecDeque::len).sum()
    }

    /// A panic cannot leave the lanes half-changed, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, Lanes<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Lanes<T> {
    fn next(&mut self) -> Option<T> {
        if let Some(item) = self.lanes[Lane::Urgent as usize].pop_front() {
            return Some(item);
        }
        let turns =
            if self.score_had_last_turn { [Lane::Train, Lane::Score] } else { [Lane::Score, Lane::Train] };
        for lane in turns {
            if let Some(item) = self.lanes[lane as usize].pop_front() {
                self.score_had_last_turn = lane == Lane::Score;
                return Some(item);
            }
        }
        self.lanes[Lane::Idle as usize].pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgent_commands_go_first_idle_ones_last_and_the_other_lanes_take_turns() {
        let queue = Queue::new(8);
        for (lane, name) in [
            (Lane::Idle, "i1"),
            (Lane::Train, "t1"),
            (Lane::Train, "t2"),
            (Lane::Score, "s1"),
            (Lane::Score, "s2"),
            (Lane::Score, "s3"),
            (Lane::Urgent, "u1"),
        ] {
            assert_eq!(queue.push(lane, name), Ok(()));
        }
        let order: Vec<_> = (0..7).filter_map(|_| queue.pop()).collect();
        assert_eq!(order, ["u1", "s1", "t1", "s2", "t2", "s3", "i1"]);
    }

    #[test]
    fn a_full_lane_refuses_and_leaves_the_others_open() {
        let queue = Queue::new(1);
        assert_eq!(queue.push(Lane::Score, 1), Ok(()));
        assert_eq!(queue.push(Lane::Score, 2), Err(Refused::Full));
        assert_eq!(queue.push(Lane::Urgent, 3), Ok(()));
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn closing_drops_what_waits_and_wakes_the_popper() {
        let queue = Queue::new(4);
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        assert_eq!(queue.push(Lane::Train, sender), Ok(()));
        queue.close();
        assert!(receiver.recv().is_err(), "the waiting command was dropped");
        assert!(queue.pop().is_none());
        let (sender, _receiver) = std::sync::mpsc::channel::<()>();
        assert_eq!(queue.push(Lane::Train, sender), Err(Refused::Closed));
    }
}
