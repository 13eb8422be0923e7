//! A store with the caches of its encoder and its decoder, which agree with its tables.

use rusqlite::{Connection, TransactionBehavior};

use super::chain::Head;
use super::decode::EventDecoder;
use super::encode::EventEncoder;
use super::store::Store;

/// Store that one thread writes, transaction by transaction.
pub(in crate::store) struct CachedStore {
    store: Store,
    encoder: EventEncoder,
    decoder: EventDecoder,
    /// `PRAGMA data_version`, which changes when another connection has written. The caches are then no longer valid.
    data_version: i64,
    /// Number of times that the caches became invalid.
    cache_epoch: u64,
}

/// Transaction of a [`CachedStore`].
pub(in crate::store) struct WriteTransaction<'a> {
    pub(in crate::store) db: &'a Connection,
    pub(in crate::store) encoder: &'a mut EventEncoder,
    pub(in crate::store) decoder: &'a mut EventDecoder,
    /// Changes when rows that a caller has cached may have changed.
    pub(in crate::store) cache_epoch: u64,
}

impl CachedStore {
    pub(in crate::store) fn new(store: Store) -> Self {
        let (encoder, decoder) = (EventEncoder::new(), EventDecoder::new());
        CachedStore { store, encoder, decoder, data_version: -1, cache_epoch: 0 }
    }

    pub(in crate::store) fn store(&self) -> &Store {
        &self.store
    }

    /// Closes the file: see [`Store::close`].
    pub(in crate::store) fn close(self) {
        self.store.close();
    }

    /// Returns the head of the chain after the last transaction.
    pub(in crate::store) fn head(&self) -> Head {
        self.encoder.chain.head()
    }

    /// Runs one transaction. If it fails, all caches are cleared.
    pub(in crate::store) fn with_transaction<T>(
        &mut self,
        work: impl FnOnce(&mut WriteTransaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let result = self.try_transaction(work);
        if result.is_err() {
            self.encoder.clear_caches();
            self.decoder.clear_caches();
            self.cache_epoch += 1;
        }
        result
    }

    fn try_transaction<T>(
        &mut self,
        work: impl FnOnce(&mut WriteTransaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let CachedStore { store, encoder, decoder, data_version, cache_epoch } = self;
        let transaction = store.connection_mut().transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version = transaction.query_row("PRAGMA data_version", [], |row| row.get(0))?;
        if version != *data_version {
            encoder.clear_caches();
            decoder.clear_caches();
            *cache_epoch += 1;
            *data_version = version;
        }
        encoder.begin(&transaction)?;
        let done = work(&mut WriteTransaction { db: &transaction, encoder, decoder, cache_epoch: *cache_epoch })?;
        transaction.commit()?;
        Ok(done)
    }
}
