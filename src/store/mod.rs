//! The store: one SQLite file, with its schema, its one writer and its readers. The only module that uses rusqlite.
//!
//! The store keeps each event as the bytes that the engine sent; everything else in the file only helps to find events.
//! A reader never writes, never waits for the writer, and never creates a file. The store does not know where events
//! come from.

mod error;
mod file;
mod format;
mod ids;
mod maintain;
mod read;
mod write;

pub use error::StoreError;
pub use file::filesystem::{bytes_on_disk, free_bytes, unsafe_filesystem};
pub use file::header::{APPLICATION_ID, is_database};
pub use file::identity::FileIdentity;
pub use file::lock::{HostState, RecorderLock, RecorderState, recorder_state};
pub use format::chain::{Head, ParseHeadError};
pub use format::checkpoint::Checkpoint;
pub use format::gap::GapReason;
pub use format::layout::{self, is_varying};
pub use format::source::SourceRow;
pub use format::store::Store;
pub use maintain::backup::BackupSummary;
pub use maintain::prune::PrunedRange;
pub use maintain::retention::Retention;
pub use maintain::verify::{Fault, VerifyReport};
pub use read::entries::{GapRevision, GapRow, RejectedRow};
pub use read::filter::{EventPredicate, StoredEvent};
pub use read::healthchecks::UnknownHealthchecks;
pub use read::query::{Actions, ActorTest, ActorTestFn, Order, Query, Snapshot};
pub use read::reader::Reader;
pub use write::counters::{Counters, SourceCounters, TypeAction};
pub use write::delivery::{Delivery, GapChange, Rejection, SourceKey};
pub use write::outcome::{WriteError, WriteStats, WriterOutcome};
pub use write::queue::{Full, Queue};
pub use write::status::Progress;
pub use write::writer::{DEFAULT_MAX_REJECTED, Limits, spawn_writer};
