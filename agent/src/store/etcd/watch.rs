//! The feed from etcd: list at a revision, watch from there on, resume where a
//! broken stream left off, list again after a compaction.

use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchResponseStream};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use tracing::{debug, info};

use super::{
    ANSWER_MAX, Etcd,
    fault::Fault,
    members::{InUse, OPEN},
    put_event,
};
use crate::{
    model::{
        key::{Key, Prefix},
        snapshot::Event,
    },
    store::{Away, Feed, Listing, Store, again},
};

/// How often a sign of life is asked for.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// How many signs of life may be missing where there is another member, and where
/// there is none.
const MISSING: usize = 1;
const MISSING_ALONE: usize = 6;

/// Neighbouring parts of the store that are watched as one: etcd tells a transaction's
/// changes of one range at once, and those of several in no order.
struct Range {
    prefixes: Vec<Prefix>,
    /// The next revision.
    next: i64,
}

impl Range {
    /// The ranges of some parts, from a revision on.
    fn of(prefixes: &[Prefix], next: i64) -> Vec<Self> {
        let mut ranges: Vec<Self> = Vec::new();
        let mut is_neighbour = false;
        for prefix in Prefix::ALL {
            let is_watched = prefixes.contains(&prefix);
            match ranges.last_mut() {
                Some(range) if is_watched && is_neighbour => range.prefixes.push(prefix),
                _ if is_watched => ranges.push(Self { prefixes: vec![prefix], next }),
                _ => {}
            }
            is_neighbour = is_watched;
        }
        ranges
    }

    /// The first key, and the first text behind the last.
    fn bounds(&self) -> (String, String) {
        let first = self.prefixes.first().map(Prefix::to_string).unwrap_or_default();
        (first, self.prefixes.last().map(|last| last.end()).unwrap_or_default())
    }

    /// Whether a change is one of its parts'. Between them may be keys of a later agent's.
    fn concerns(&self, event: &Event) -> bool {
        Prefix::of(event.key()).is_some_and(|prefix| self.prefixes.contains(&prefix))
    }
}

/// Why a stream ended.
enum End {
    /// Nobody listens any more.
    Unwanted,
    /// The store forgot the revisions that follow ours.
    Compacted,
    /// It went back, or the cluster's key changed while nobody looked.
    Replaced,
    /// The member failed; another may not.
    Left(Away),
    /// No member does it.
    Broken(Away),
}

/// What the watch goes on from.
struct Resume {
    ranges: Vec<Range>,
    /// The value of the cluster's key when everything was listed, or changed
    /// since.
    cluster: Option<Vec<u8>>,
}

/// Feeds `send` until nobody listens. A member that fails is left for another
/// without a word: only when none of them answers is the store away.
pub(super) async fn run(store: Etcd, prefixes: Vec<Prefix>, send: mpsc::Sender<Feed>) {
    let mut resume: Option<Resume> = None;
    let mut again = again();
    // Members left since a stream lived.
    let mut left = 0;
    loop {
        let end = match &mut resume {
            None => match list(&store, &prefixes, &send).await {
                Ok(listed) => {
                    resume = Some(listed);
                    continue;
                }
                Err(end) => end,
            },
            Some(resume) => {
                let started = Instant::now();
                let end = go_on(&store, resume, &send).await;
                // A stream that lived ends a series of failures.
                if started.elapsed() > SIGN_OF_LIFE {
                    again.succeeded();
                    left = 0;
                }
                end
            }
        };
        let away = match end {
            End::Unwanted => return,
            End::Compacted => {
                info!("etcd compacted events that this node had not seen; listing again");
                resume = None;
                continue;
            }
            End::Replaced => {
                info!("etcd's cluster or revision changed; listing again");
                resume = None;
                continue;
            }
            End::Left(away) if left <= store.members.len() => {
                debug!("the watch goes on at another member: {}", away.problem);
                left += 1;
                continue;
            }
            End::Left(away) | End::Broken(away) => away,
        };
        if send.send(Feed::Away(away)).await.is_err() {
            return;
        }
        sleep(again.wait()).await;
    }
}

/// Follows from where the last stream ended, if the store is still the same: a
/// watch from a revision that a restored store has yet to reach would wait
/// without a word, and miss what lies before.
async fn go_on(store: &Etcd, resume: &mut Resume, send: &mpsc::Sender<Feed>) -> End {
    let key = Key::Cluster;
    let listing = match store.list(&[key.to_string()]).await {
        Ok(listing) => listing,
        Err(away) => return End::Broken(away),
    };
    let seen = resume.ranges.iter().map(|range| range.next).max().unwrap_or_default() - 1;
    if listing.revision < seen || listing.value_of(&key) != resume.cluster.as_deref() {
        return End::Replaced;
    }
    match store.members.best().await {
        Ok(member) => follow(&member, store.members.len() > 1, resume, send).await,
        Err(fault) => End::from(fault),
    }
}

async fn list(store: &Etcd, prefixes: &[Prefix], send: &mpsc::Sender<Feed>) -> Result<Resume, End> {
    // Every watcher has to know which store it is.
    let all = prefixes.iter().chain(Some(&Prefix::Cluster).filter(|cluster| !prefixes.contains(cluster)));
    let all: Vec<String> = all.map(Prefix::to_string).collect();
    let mut listing: Listing = store.list(&all).await.map_err(End::Broken)?;
    let cluster = listing.value_of(&Key::Cluster).map(<[u8]>::to_vec);
    if !prefixes.contains(&Prefix::Cluster) {
        listing.entries.retain(|event| Prefix::of(event.key()) != Some(Prefix::Cluster));
    }
    let resume = Resume { ranges: Range::of(prefixes, listing.revision + 1), cluster };
    send.send(Feed::Listing(listing)).await.map_err(|_| End::Unwanted)?;
    Ok(resume)
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Left(fault.away)
    }
}

/// Watches from the revisions in `resume`, one for each range, and moves them
/// forward with what was seen.
async fn follow(member: &InUse<'_>, has_others: bool, resume: &mut Resume, send: &mpsc::Sender<Feed>) -> End {
    let (mut requests, mut answers) = match timeout(OPEN, open(member, &resume.ranges)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return member.fault(&error).into(),
        Err(_) => return member.ended("does not open a watch").into(),
    };
    let mut tick = interval_at(Instant::now() + SIGN_OF_LIFE, SIGN_OF_LIFE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let missing = if has_others { MISSING } else { MISSING_ALONE };
    let (mut silent, mut created) = (0, 0);
    loop {
        tokio::select! {
            answer = answers.message() => {
                silent = 0;
                let answer = match answer {
                    Ok(Some(answer)) => answer,
                    Ok(None) => return member.ended("ended the watch").into(),
                    Err(error) => return member.fault(&error).into(),
                };
                if answer.created() {
                    created += 1;
                }
                if answer.created() && created == resume.ranges.len() && send.send(Feed::Back).await.is_err() {
                    return End::Unwanted;
                }
                if answer.canceled() {
                    return cancelled(member, &answer);
                }
                if let Err(end) = take(&answer, resume, send).await {
                    return end;
                }
            }
            _ = tick.tick() => {
                if silent > missing {
                    return member.ended("gives no sign of life").into();
                }
                silent += 1;
                if let Err(error) = requests.request_progress().await {
                    return member.fault(&error).into();
                }
            }
            () = member.until_failed() => return member.ended("fails others").into(),
            () = send.closed() => return End::Unwanted,
        }
    }
}

/// Why a member gives a watch up.
fn cancelled(member: &InUse<'_>, answer: &WatchResponse) -> End {
    if answer.compact_revision() > 0 {
        return End::Compacted;
    }
    info!("etcd cancelled the watch: {}", answer.cancel_reason());
    member.cancelled(answer.cancel_reason()).into()
}

async fn open(
    member: &InUse<'_>,
    ranges: &[Range],
) -> Result<(etcd_client::WatchRequestSender, WatchResponseStream), etcd_client::Error> {
    let requests = ranges.iter().zip(1..).map(|(range, id)| {
        let (first, end) = range.bounds();
        let options = WatchOptions::new().with_range(end).with_start_revision(range.next);
        (first, options.with_progress_notify().with_watch_id(id))
    });
    let mut requests = requests.collect::<Vec<_>>().into_iter();
    let mut client = member.client.watch_client().max_decoding_message_size(ANSWER_MAX);
    let (first, options) = requests.next().unwrap_or_default();
    let (mut sender, answers) = client.watch(first, Some(options)).await?.split();
    for (first, options) in requests {
        sender.watch(first, Some(options)).await?;
    }
    Ok((sender, answers))
}

/// Passes on what an answer tells.
async fn take(answer: &WatchResponse, resume: &mut Resume, send: &mpsc::Sender<Feed>) -> Result<(), End> {
    // While etcd catches a watch up, the header may be ahead of the events: they
    // come in parts, all under the newest revision.
    let told = answer.events().iter().filter_map(|event| event.kv()).map(|kv| kv.mod_revision()).max();
    let revision = told.unwrap_or_else(|| answer.header().map_or(0, |header| header.revision()));
    // The answer to a requested progress belongs to no watch, and in etcd 3.4
    // it may overtake events: it is a sign of life and nothing else.
    let index = usize::try_from(answer.watch_id() - 1).ok();
    let watch = index.and_then(|index| resume.ranges.get_mut(index));
    let Some(range) = watch.filter(|_| !answer.created()) else { return Ok(()) };
    range.next = range.next.max(revision + 1);
    let events = answer.events().iter().filter_map(event).filter(|event| range.concerns(event));
    let events: Vec<Event> = events.collect();
    if events.is_empty() {
        return Ok(());
    }
    let cluster = Key::Cluster.to_string();
    for event in events.iter().filter(|event| event.key() == cluster) {
        resume.cluster = match event {
            Event::Put { value, .. } => Some(value.clone()),
            Event::Delete { .. } => None,
        };
    }
    // The ranges come in no order among each other: what is seen of one says
    // nothing of the other.
    let whole = range.prefixes.clone();
    send.send(Feed::Events { revision, whole, events }).await.map_err(|_| End::Unwanted)
}

fn event(event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    Some(match event.event_type() {
        EventType::Put => put_event(kv),
        EventType::Delete => Event::Delete { key: String::from_utf8_lossy(kv.key()).into_owned() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::Snapshot;

    #[test]
    fn adjacent_prefixes_are_watched_as_one_range_without_keys_between_ranges() {
        let parts = |prefixes: &[Prefix]| -> Vec<Vec<Prefix>> {
            Range::of(prefixes, 5).into_iter().map(|range| range.prefixes).collect()
        };
        // What a transaction changes in nodes and removed nodes has to come at once.
        let main = [Prefix::Networks, Prefix::Nodes, Prefix::Pools, Prefix::Denied, Prefix::Removed];
        let expected = [&[Prefix::Alive, Prefix::Cluster][..], &main, &[Prefix::Routes]];
        assert_eq!(parts(&Snapshot::PREFIXES), expected);
        assert_eq!(parts(&[Prefix::Routes, Prefix::Ipam]), [[Prefix::Ipam], [Prefix::Routes]]);
        let ranges = Range::of(&Snapshot::PREFIXES, 5);
        let reserved = Key::Reservation("10.1.0.0/16".parse().expect("a literal")).to_string();
        assert!(ranges.iter().all(|range| {
            let (first, end) = range.bounds();
            range.next == 5 && (reserved < first || reserved >= end)
        }));
    }
}
