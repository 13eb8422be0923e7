//! The life of one container, as a client makes it: create, start, wait, read its logs, remove.
//!
//! The only requests that change something at an engine; the recorder makes none of them.

use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;

use super::{Chunks, Client, EngineError, PATIENCE};

/// A container to be created.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Wanted {
    /// Its image, by name or ID; it must be there.
    pub image: String,
    /// What it runs.
    pub cmd: Vec<String>,
    /// Whether it has a terminal: its logs are then one raw stream.
    pub tty: bool,
    /// Labels, which stand in its events as well.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Without a network, so that none is needed.
    pub network_disabled: bool,
}

#[derive(serde::Deserialize)]
struct Created {
    #[serde(rename = "Id")]
    id: String,
}

#[derive(serde::Deserialize)]
struct Waited {
    #[serde(rename = "StatusCode")]
    status: i64,
}

impl Client {
    /// Creates a container, and gives its ID.
    ///
    /// # Errors
    /// [`EngineError`]; an image that is not there is a status 404.
    pub async fn create(&self, name: &str, wanted: &Wanted) -> Result<String, EngineError> {
        let body = serde_json::to_vec(wanted).expect("it is JSON");
        let created: Created = self.post(&format!("/containers/create?name={name}"), body.into(), PATIENCE).await?;
        Ok(created.id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// [`EngineError`]; a command that cannot be run is a status 400.
    pub async fn start(&self, id: &str) -> Result<(), EngineError> {
        let path = self.versioned(&format!("/containers/{id}/start"));
        self.send(Method::POST, &path, Bytes::new(), PATIENCE * 3).await.map(|_| ())
    }

    /// Waits until a container has ended, and gives what it ended with.
    ///
    /// # Errors
    /// [`EngineError`]; one that goes on for longer than `patience` is [`EngineError::Silent`].
    pub async fn wait(&self, id: &str, patience: Duration) -> Result<i64, EngineError> {
        let waited: Waited = self.post(&format!("/containers/{id}/wait"), Bytes::new(), patience).await?;
        Ok(waited.status)
    }

    /// What a container has written so far: one raw stream if it has a terminal, else two in frames.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn logs(&self, id: &str) -> Result<Chunks, EngineError> {
        let path = self.versioned(&format!("/containers/{id}/logs?stdout=1&stderr=1"));
        let answer = self.get(&path, PATIENCE).await?;
        Ok(Chunks { host: self.host.to_string(), path, answer: answer.into_body() })
    }

    /// Removes a container, running or not, and its anonymous volumes.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let path = self.versioned(&format!("/containers/{id}?force=1&v=1"));
        self.send(Method::DELETE, &path, Bytes::new(), PATIENCE * 3).await.map(|_| ())
    }

    async fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<T, EngineError> {
        let path = self.versioned(path);
        let answer = tokio::time::timeout(patience, async {
            let answer = self.send(Method::POST, &path, body, patience).await?;
            self.collected(&path, answer.into_body()).await
        });
        let body = answer.await.unwrap_or_else(|_| Err(self.silent(&path, patience)))?;
        self.parsed(&path, &body)
    }
}
