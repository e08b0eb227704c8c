//! What the store tells, on its way to the loop. A listing is decoded beside the loop, and the
//! host's routes are asked there about what is new: the whole listing takes effect at once. Later
//! events wait in the feed meanwhile.

use anyhow::Result;
use tracing::error;

use super::{
    Loop, State,
    concern::Concern,
    routes::{self, Looked},
};
use crate::{
    desired::Dirty,
    kernel::{Kernel, Netlink, routes::Changed},
    model::snapshot::Snapshot,
    store::{Feed, Listing},
};

/// A listing, decoded.
#[derive(Debug)]
pub struct Read {
    /// The store's revision at that moment.
    pub revision: i64,
    /// What it says.
    pub snapshot: Snapshot,
}

impl Read {
    fn of(listing: &Listing, old: &Snapshot) -> Self {
        Self { revision: listing.revision, snapshot: Snapshot::of(&listing.entries, old) }
    }
}

/// What the store has told, and what the host's routes say of it.
pub(super) struct Told {
    feeds: Vec<Feed<Read>>,
    changed: Changed,
    looked: Result<Looked>,
}

/// Whether something is taken in beside the loop.
fn takes_time(feed: &Feed) -> bool {
    match feed {
        Feed::Listing(_) => true,
        Feed::Events { events, .. } => events.iter().any(|event| Concern::of(event).routes),
        Feed::Away(_) | Feed::Back | Feed::Writable(_) => false,
    }
}

/// Decodes what the store has told, and looks at the routes as if it counted already.
async fn prepare(netlink: Netlink, mut state: State, feeds: Vec<Feed>) -> Told {
    let followed = state.snapshot.followed();
    let doubted = state.doubted.take();
    let is_doubted = doubted.is_some();
    let mut next = doubted.unwrap_or_else(|| state.snapshot.clone());
    let decode = |feed: Feed| {
        let feed = feed.map(|listing| {
            let read = Read::of(&listing, if is_doubted { &state.snapshot } else { &next });
            next = read.snapshot.clone();
            read
        });
        if let Feed::Events { events, .. } = &feed {
            events.iter().for_each(|event| next.apply(event));
        }
        feed
    };
    let feeds = feeds.into_iter().map(decode).collect();
    next.settle(&state.facts.vital(), &followed);
    state.snapshot = next;
    let changed = state.routes.for_news();
    let looked = routes::look(&netlink, &state, &changed).await;
    Told { feeds, changed, looked }
}

impl<K: Kernel> Loop<K> {
    /// Takes in what the store tells: at once, or beside the loop with all that it has told
    /// since.
    pub(super) fn take_in(&mut self, feed: Feed) {
        if !takes_time(&feed) {
            let feed = feed.map(|listing| Read::of(&listing, &self.state.snapshot));
            let dirty = self.state.take(feed);
            return self.dirty.add(dirty);
        }
        let mut feeds = vec![feed];
        for _ in 0..self.sources.store.len() {
            feeds.extend(self.sources.store.try_recv());
        }
        let (netlink, state) = (self.netlink.clone(), self.state.clone());
        self.aside.take_in(async move { Ok(prepare(netlink, state, feeds).await) });
    }

    /// Takes over what was taken in; whether that could be done at all.
    pub(super) fn taken_in(&mut self, told: Result<Told>) -> bool {
        let Told { feeds, changed, looked } = match told {
            Ok(told) => told,
            Err(failure) => {
                error!("cannot take in what the store tells: {failure:#}");
                return false;
            }
        };
        let looked = self.routes_read(changed, looked).unwrap_or_default();
        let dirty = self.state.has_looked(looked, |state| {
            let mut dirty = Dirty::Nothing;
            feeds.into_iter().for_each(|feed| dirty.add(state.take(feed)));
            dirty
        });
        self.dirty.add(dirty);
        true
    }
}
