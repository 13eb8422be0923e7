//! The recorder: reads the event streams of engines and stores their events until it is stopped.
//!
//! The [supervisor](supervisor) opens the store and starts one [connection](connection) task for each host. A
//! connection connects, runs a [driver](driver) for each session, and reconnects. The driver does the input and output
//! of a session; the [session](session) decides what is stored and where a gap is. Deliveries go through a bounded
//! queue to the one writer of the store.
//!
//! This stage knows neither the command line nor the terminal, and contains no SQL.

mod backlog;
mod backoff;
mod clock_skew;
mod config;
mod connection;
mod driver;
mod engine_counter;
mod error;
mod file_watch;
mod gaps;
mod session;
mod sources;
mod supervisor;
mod telemetry;

pub(crate) use backlog::{Timeouts, fetch as fetch_backlog};
pub(crate) use clock_skew::measure as measure_clock;
pub use config::{Config, DEFAULT_PING_INTERVAL, Telemetry, Until};
pub use error::RecorderError;
pub use supervisor::Recorder;
pub use telemetry::Notifier;
