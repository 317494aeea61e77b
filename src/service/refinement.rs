//! Between the supervised steps of a training and those on the model's own reasonings: these are written and judged.
//!
//! Invariant: what was mined is in a checkpoint before a step learns from it, so a resumed training learns from the same.
//! Deliberately absent: pairs and losses, which are the engine's.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
    course::Course,
    curve::Curve,
};
use crate::{
    domain::job::Progress,
    engine::{ForkId, MINED_AT_ONCE, MineStats},
};

impl Service {
    /// Has the model reason about the labels, unless a checkpoint has that already; gives the batches of the refinement.
    pub(super) async fn prepare_refinement(
        &self,
        attempt: &Attempt,
        course: &Course,
        fork: ForkId,
        curve: &mut Curve,
    ) -> Result<Vec<Vec<usize>>, Interrupted> {
        if !course.spec.mines() {
            return Ok(course.refinement(&[]));
        }
        let mut mined = attempt.patiently(|| self.engine.mined(fork)).await?;
        if mined.is_empty() {
            let stats = self.mine(attempt, course, fork).await?;
            attempt.crash_point("reasoning");
            tracing::info!(?stats, "reasonings judged");
            if stats.found == 0 {
                tracing::warn!(
                    "no reasoning of the model's own is of use: the refinement goes on supervised"
                );
            }
            // Written at once: it is as dear as many steps.
            let steps = curve.take();
            self.save_checkpoint(attempt, fork, &curve.progress, &steps).await?;
            mined = attempt.patiently(|| self.engine.mined(fork)).await?;
        }
        Ok(course.refinement(&mined))
    }

    async fn mine(&self, attempt: &Attempt, course: &Course, fork: ForkId) -> Result<MineStats, Interrupted> {
        let places: Vec<usize> = (0..course.lessons.len()).collect();
        let mut progress = Progress::of("reasoning", 0, places.len() as u64);
        let mut stats = MineStats::default();
        for piece in places.chunks(MINED_AT_ONCE) {
            self.look(attempt).await?;
            self.store.heartbeat(&attempt.job, Some(&progress), self.now()).await?;
            let items = self.read_lessons(course, piece).await?;
            stats += attempt.patiently(|| self.engine.mine(fork, items.clone())).await?;
            progress.done += piece.len() as u64;
        }
        Ok(stats)
    }
}
