//! Who an engine says it is: what it was when it was recorded.

use crate::engine::ApiVersion;
use crate::store::SourceRow;

/// Who the engine says it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The engine's ID.
    pub id: String,
    /// The name of its machine.
    pub name: String,
    /// The newest version of the API it answers.
    pub api: ApiVersion,
    /// The oldest version of the API it answers.
    pub oldest_api: ApiVersion,
    /// Its own version.
    pub version: String,
    /// All it said on `/version` (JSON), if that is known.
    pub told: Option<String>,
}

/// Who an engine is of whom nothing else is known.
impl Default for Identity {
    fn default() -> Self {
        Identity {
            id: "00000000-0000-4000-8000-000000000000".into(),
            name: "events".into(),
            api: ApiVersion(1, 51),
            oldest_api: ApiVersion(1, 24),
            version: env!("CARGO_PKG_VERSION").into(),
            told: None,
        }
    }
}

impl Identity {
    /// The engine of these that was reached last, as it was then; files that were imported are nobody's.
    pub(super) fn of<'a>(sources: impl IntoIterator<Item = &'a SourceRow>) -> Identity {
        let engines = sources.into_iter().filter(|source| source.engine_id.is_some());
        engines.max_by_key(|source| source.contacted_nano).map_or_else(Identity::default, Identity::of_engine)
    }

    fn of_engine(source: &SourceRow) -> Identity {
        #[derive(Default, serde::Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        struct Told {
            api_version: String,
            #[serde(rename = "MinAPIVersion")]
            min_api_version: String,
            version: String,
        }
        let told: Told = source.version.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let usual = Identity::default();
        let version = |text: &str, usual: ApiVersion| text.parse().unwrap_or(usual);
        Identity {
            id: source.engine_id.clone().unwrap_or(usual.id),
            name: source.name.clone(),
            api: version(&told.api_version, usual.api),
            oldest_api: version(&told.min_api_version, usual.oldest_api),
            version: if told.version.is_empty() { usual.version } else { told.version },
            told: source.version.clone(),
        }
    }
}
