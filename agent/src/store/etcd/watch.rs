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
        key::{Key, ROOT},
        snapshot::Event,
    },
    store::{Away, Feed, LISTED, Listing, Store, again},
};

/// How often a sign of life is asked for.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// How many signs of life may be missing where there is another member, and where
/// there is none.
const MISSING: usize = 1;
const MISSING_ALONE: usize = 6;

/// The watched ranges: their first key, and the first behind. What lies
/// between networks and routes in the order of keys is watched by all; what
/// concerns single nodes (`ipam`, `names`) lies outside.
const WATCHED: [(&str, &str); 3] = [("alive/", "alive0"), ("cluster", "cluster0"), ("networks/", "routes0")];
/// The range whose revision is that of the snapshot.
const MAIN: usize = 2;

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
    /// The next revision of each range.
    next: [i64; WATCHED.len()],
    /// The value of the cluster's key when everything was listed, or changed
    /// since.
    cluster: Option<Vec<u8>>,
}

/// Feeds `send` until nobody listens. A member that fails is left for another
/// without a word: only when none of them answers is the store away.
pub(super) async fn run(store: Etcd, send: mpsc::Sender<Feed>) {
    let mut resume: Option<Resume> = None;
    let mut again = again();
    // Members left since a stream lived.
    let mut left = 0;
    loop {
        let end = match &mut resume {
            None => match list(&store, &send).await {
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
    let seen = resume.next.iter().max().copied().unwrap_or_default() - 1;
    if listing.revision < seen || listing.value_of(&key) != resume.cluster.as_deref() {
        return End::Replaced;
    }
    match store.members.best().await {
        Ok(member) => follow(&member, store.members.len() > 1, resume, send).await,
        Err(fault) => End::from(fault),
    }
}

async fn list(store: &Etcd, send: &mpsc::Sender<Feed>) -> Result<Resume, End> {
    let prefixes = LISTED.map(|prefix| format!("{ROOT}{prefix}"));
    let listing: Listing = store.list(&prefixes).await.map_err(End::Broken)?;
    let cluster = listing.value_of(&Key::Cluster).map(<[u8]>::to_vec);
    let resume = Resume { next: [listing.revision + 1; WATCHED.len()], cluster };
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
    let (mut requests, mut answers) = match timeout(OPEN, open(member, &resume.next)).await {
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
                if answer.created() && created == WATCHED.len() && send.send(Feed::Back).await.is_err() {
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
    resume: &[i64; WATCHED.len()],
) -> Result<(etcd_client::WatchRequestSender, WatchResponseStream), etcd_client::Error> {
    let options = |index: usize| {
        WatchOptions::new()
            .with_range(format!("{ROOT}{}", WATCHED[index].1))
            .with_start_revision(resume[index])
            .with_progress_notify()
            .with_watch_id(index as i64 + 1)
    };
    let key = |index: usize| format!("{ROOT}{}", WATCHED[index].0);
    let mut client = member.client.watch_client().max_decoding_message_size(ANSWER_MAX);
    let stream = client.watch(key(0), Some(options(0))).await?;
    let (mut requests, answers) = stream.split();
    for index in 1..WATCHED.len() {
        requests.watch(key(index), Some(options(index))).await?;
    }
    Ok((requests, answers))
}

/// Passes on what an answer tells.
async fn take(answer: &WatchResponse, resume: &mut Resume, send: &mpsc::Sender<Feed>) -> Result<(), End> {
    // While etcd catches a watch up, the header may be ahead of the events: they
    // come in parts, all under the newest revision.
    let told = answer.events().iter().filter_map(|event| event.kv()).map(|kv| kv.mod_revision()).max();
    let revision = told.unwrap_or_else(|| answer.header().map_or(0, |header| header.revision()));
    let events: Vec<Event> = answer.events().iter().filter_map(event).collect();
    // The answer to a requested progress belongs to no watch, and in etcd 3.4
    // it may overtake events: it is a sign of life and nothing else.
    let index = usize::try_from(answer.watch_id() - 1).ok();
    let watch = index.and_then(|index| resume.next.get_mut(index));
    let Some(next) = watch.filter(|_| !answer.created()) else { return Ok(()) };
    *next = (*next).max(revision + 1);
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
    let revision = if index == Some(MAIN) { revision } else { 0 };
    send.send(Feed::Events { revision, events }).await.map_err(|_| End::Unwanted)
}

fn event(event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    Some(match event.event_type() {
        EventType::Put => put_event(kv),
        EventType::Delete => Event::Delete { key: String::from_utf8_lossy(kv.key()).into_owned() },
    })
}
