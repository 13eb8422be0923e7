//! Identity of the engine, as it was when it was recorded.

use crate::engine::ApiVersion;
use crate::store::SourceRow;

/// Identity of an engine: its ID, name and versions.
#[derive(Clone, Debug)]
pub struct EngineIdentity {
    /// ID of the engine.
    pub id: String,
    /// Name of its machine.
    pub name: String,
    /// Newest supported API version.
    pub api: ApiVersion,
    /// Oldest supported API version.
    pub oldest_api: ApiVersion,
    /// Version of the engine.
    pub version: String,
    /// Recorded response to `/version` (JSON), if there is one.
    pub version_response: Option<String>,
}

/// Identity of an engine that was not recorded.
impl Default for EngineIdentity {
    fn default() -> Self {
        EngineIdentity {
            id: "00000000-0000-4000-8000-000000000000".into(),
            name: "events".into(),
            api: ApiVersion(1, 51),
            oldest_api: ApiVersion(1, 24),
            version: env!("CARGO_PKG_VERSION").into(),
            version_response: None,
        }
    }
}

impl EngineIdentity {
    /// Returns the identity of the engine that was reached last, as it was then. Imported files have no engine.
    pub(super) fn from_sources<'a>(sources: impl IntoIterator<Item = &'a SourceRow>) -> EngineIdentity {
        let engines = sources.into_iter().filter(|source| source.engine_id.is_some());
        engines
            .max_by_key(|source| source.connected_nano)
            .map_or_else(EngineIdentity::default, EngineIdentity::from_source)
    }

    fn from_source(source: &SourceRow) -> EngineIdentity {
        #[derive(Default, serde::Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        struct VersionResponse {
            api_version: String,
            #[serde(rename = "MinAPIVersion")]
            min_api_version: String,
            version: String,
        }
        let response: VersionResponse =
            source.version.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let defaults = EngineIdentity::default();
        let version = |text: &str, default: ApiVersion| text.parse().unwrap_or(default);
        EngineIdentity {
            id: source.engine_id.clone().unwrap_or(defaults.id),
            name: source.name.clone(),
            api: version(&response.api_version, defaults.api),
            oldest_api: version(&response.min_api_version, defaults.oldest_api),
            version: if response.version.is_empty() { defaults.version } else { response.version },
            version_response: source.version.clone(),
        }
    }
}
