//! Why a recorder ended with an error.

use crate::engine::EngineError;
use crate::http::ListenError;
use crate::store::{StoreError, WriteError};

/// Error of a recorder.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// The store cannot be opened, or has a recorder already.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Events that were read could not be stored.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The backlog of an engine could not be stored.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The metrics and health endpoints cannot be served.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// An engine was not reached before the end of the recording.
    #[error("the recorder never connected to {host}")]
    NeverConnected {
        /// Host of the engine.
        host: String,
    },
}

impl RecorderError {
    /// Hint for the user.
    pub fn hint(&self) -> Option<String> {
        match self {
            RecorderError::Store(e) => e.hint(),
            RecorderError::Engine(e) => e.hint(),
            RecorderError::NeverConnected { host } => {
                Some(format!("run `docker -H {host} version` to find the reason"))
            }
            RecorderError::Write(_) | RecorderError::Listen(_) => None,
        }
    }
}
