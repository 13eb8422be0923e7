//! Requests for the lifecycle of one container: create, start, wait, read its logs, remove.
//!
//! These are the only requests that change an engine. The recorder sends none of them.

use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;

use super::{ByteStream, Client, EngineError, REQUEST_TIMEOUT};

/// Specification of a container to create.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerSpec {
    /// Image, by name or ID. It must exist on the engine.
    pub image: String,
    /// Command of the container.
    pub cmd: Vec<String>,
    /// True for a container with a terminal, whose logs are one raw stream.
    pub tty: bool,
    /// Labels, which its events contain too.
    pub labels: std::collections::BTreeMap<String, String>,
    /// True for a container without a network, so that the engine needs none.
    pub network_disabled: bool,
}

#[derive(serde::Deserialize)]
struct CreateResponse {
    #[serde(rename = "Id")]
    id: String,
}

#[derive(serde::Deserialize)]
struct WaitResponse {
    #[serde(rename = "StatusCode")]
    status: i64,
}

impl Client {
    /// Creates a container and returns its ID.
    ///
    /// # Errors
    /// [`EngineError`]. A missing image is a status 404.
    pub async fn create_container(&self, name: &str, spec: &ContainerSpec) -> Result<String, EngineError> {
        let body = serde_json::to_vec(spec).expect("a container spec serializes to JSON");
        let response: CreateResponse =
            self.post(&format!("/containers/create?name={name}"), body.into(), REQUEST_TIMEOUT).await?;
        Ok(response.id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// [`EngineError`]. A command that cannot be run is a status 400.
    pub async fn start_container(&self, id: &str) -> Result<(), EngineError> {
        let path = self.versioned_path(&format!("/containers/{id}/start"));
        self.send(Method::POST, &path, Bytes::new(), REQUEST_TIMEOUT * 3).await.map(|_| ())
    }

    /// Waits until a container exits, and returns its exit code.
    ///
    /// # Errors
    /// [`EngineError`]. If the container runs longer than `timeout`, it is [`EngineError::Timeout`].
    pub async fn wait_container(&self, id: &str, timeout: Duration) -> Result<i64, EngineError> {
        let response: WaitResponse = self.post(&format!("/containers/{id}/wait"), Bytes::new(), timeout).await?;
        Ok(response.status)
    }

    /// Opens the logs of a container: one raw stream if it has a terminal, else two streams in frames.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn container_logs(&self, id: &str) -> Result<ByteStream, EngineError> {
        let path = self.versioned_path(&format!("/containers/{id}/logs?stdout=1&stderr=1"));
        let response = self.get(&path, REQUEST_TIMEOUT).await?;
        Ok(ByteStream { host: self.host.to_string(), path, body: response.into_body() })
    }

    /// Removes a container, even if it is running, and its anonymous volumes.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn remove_container(&self, id: &str) -> Result<(), EngineError> {
        let path = self.versioned_path(&format!("/containers/{id}?force=1&v=1"));
        self.send(Method::DELETE, &path, Bytes::new(), REQUEST_TIMEOUT * 3).await.map(|_| ())
    }

    async fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<T, EngineError> {
        let path = self.versioned_path(path);
        let exchange = tokio::time::timeout(timeout, async {
            let response = self.send(Method::POST, &path, body, timeout).await?;
            self.read_body(&path, response.into_body()).await
        });
        let body = exchange.await.unwrap_or_else(|_| Err(self.timeout_error(&path, timeout)))?;
        self.parse_json(&path, &body)
    }
}
