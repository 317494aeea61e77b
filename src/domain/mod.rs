//! The words of the product as types, and the rules that need nothing but their arguments.
//!
//! Invariant: no IO, no clock, no random numbers; `now` is always passed in.

pub mod batch;
pub mod calibration;
pub mod error;
pub mod gate;
pub mod ids;
pub mod job;
pub mod label;
pub mod metrics;
pub mod paired;
pub mod policy;
pub mod pool;
pub mod provenance;
pub mod round;
pub mod sample;
pub mod savings;
pub mod stage;
pub mod training;
pub mod uncertainty;
pub mod version;

pub use batch::{Arm, BanditArm, Batch, Fallback, Lease, Outcome, Query, Uncertainty};
pub use error::{Error, Result, Violation};
pub use gate::{Answered, ExamSample};
pub use ids::{JobId, LabelId, LeaseId, PoolId, RoundId, SampleId, VersionId};
pub use job::{Job, JobKind, JobState, Trigger};
pub use label::{Answer, Content, Label, LabelKind, NewLabel, Region, Verdict, VerdictCode};
pub use metrics::{AnnotatorCount, LabelCount, PoolMetrics, RoundPoint, SampleCount};
pub use policy::{
    Adaptive, Budget, Funnel, Gate, InitFrom, Losses, Meter, Method, Policy, Refinement, Retention, Start,
    Stopping, Strategy, Training, TrainingMode,
};
pub use pool::{Pool, PoolState};
pub use provenance::{BanditShare, Dropped, FunnelRun, PlanRun, Provenance, Quarantined, Transform, Weights};
pub use round::{Round, RoundState};
pub use sample::{NewSample, Sample, SampleState, Split};
pub use savings::{Advice, Call, Savings, SavingsVerdict};
pub use stage::{Decision, Signals, Stage};
pub use training::TrainingStep;
pub use version::{Evaluation, GateVerdict, Version, VersionState};

/// A moment, as Postgres keeps it (UTC, microseconds).
pub type Time = chrono::DateTime<chrono::Utc>;
