use std::sync::Arc;

use crate::{DiscoveryEvent, shared::Shared};

/// Drops what expired and writes what changed, every so often, for ever.
pub(crate) async fn run(shared: Arc<Shared>) {
    let clock = shared.world.clock.clone();
    loop {
        clock.sleep_until(clock.now() + shared.config.flush_interval).await;
        evict(&shared);
        flush(&shared).await;
    }
}

fn evict(shared: &Shared) {
    let expired = shared.index().evict(shared.wall());
    for record in expired {
        let record = record.record();
        shared.emit(DiscoveryEvent::Expired { agent: record.agent, peer: record.peer });
    }
}

/// Writes what changed in the index; what cannot be written is tried again next time.
pub(crate) async fn flush(shared: &Shared) {
    let Some(store) = shared.store() else { return };
    let dirty = {
        let mut index = shared.index();
        if !index.is_dirty() {
            return;
        }
        index.take_dirty()
    };
    let peers: Vec<_> = dirty.iter().map(|(peer, _)| *peer).collect();
    let changes = dirty.into_iter().map(|(peer, record)| (peer, record.map(|record| record.to_bytes()))).collect();
    if let Err(error) = store.write(&shared.world, changes).await {
        tracing::warn!(%error, "cannot write the index of agents");
        shared.index().put_back(peers);
    }
}
