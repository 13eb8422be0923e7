//! The view of other programs on a running recorder: its state in the lock file, metrics and health endpoints, and
//! messages to systemd.

mod health;
pub(in crate::recorder) mod metrics;
mod status;
mod systemd;

pub(in crate::recorder) use health::Health;
pub(in crate::recorder) use status::Status;
pub use systemd::Notifier;
