//! The feed from etcd: list at a revision, watch from there on, resume where a
//! broken stream left off, list again after a compaction.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchResponseStream};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tracing::{info, warn};

use super::{
    Feed, Listing, Store,
    etcd::{ANSWER_MAX, Etcd, put_event},
};
use crate::model::{key::ROOT, snapshot::Event};

/// How often a sign of life is asked for; two without one end the stream.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// How long opening a stream may take.
const OPEN: Duration = Duration::from_secs(5);

/// The watched ranges: their first key, and the first behind. What lies
/// between networks and routes in the order of keys is watched by all; what
/// concerns single nodes (`ipam`, `names`) lies outside.
const WATCHED: [(&str, &str); 2] = [("alive/", "alive0"), ("networks/", "routes0")];
/// The range whose revision is that of the snapshot.
const MAIN: usize = 1;
/// The same as prefixes, for listing.
const LISTED: [&str; 4] = ["alive/", "networks/", "nodes/", "routes/"];

/// Waits between attempts: doubling from 100 ms to 5 s, with jitter.
pub(super) fn waits() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Why a stream ended.
enum End {
    /// Nobody listens any more.
    Unwanted,
    /// The store forgot the revisions that follow ours.
    Compacted,
    /// Anything else.
    Broken(String),
}

/// Feeds `send` until nobody listens.
pub(super) async fn run(store: Etcd, send: mpsc::Sender<Feed>) {
    let mut resume: Option<[i64; WATCHED.len()]> = None;
    let mut waits = waits();
    loop {
        let end = match &mut resume {
            None => match list(&store, &send).await {
                Ok(revision) => {
                    resume = Some([revision + 1; WATCHED.len()]);
                    continue;
                }
                Err(end) => end,
            },
            Some(resume) => {
                let started = Instant::now();
                let end = match store.client().await {
                    Ok(client) => follow(client, resume, &send).await,
                    Err(away) => End::Broken(away.0),
                };
                // A stream that lived ends a series of failures.
                if started.elapsed() > SIGN_OF_LIFE {
                    waits = self::waits();
                }
                end
            }
        };
        match end {
            End::Unwanted => return,
            End::Compacted => {
                info!("etcd compacted what we had not seen; listing again");
                resume = None;
            }
            End::Broken(reason) => {
                if send.send(Feed::Away(reason)).await.is_err() {
                    return;
                }
                tokio::time::sleep(waits.next().unwrap_or(SIGN_OF_LIFE)).await;
            }
        }
    }
}

async fn list(store: &Etcd, send: &mpsc::Sender<Feed>) -> Result<i64, End> {
    let prefixes = LISTED.map(|prefix| format!("{ROOT}{prefix}"));
    let listing: Listing = store.list(&prefixes).await.map_err(|away| End::Broken(away.0))?;
    let revision = listing.revision;
    send.send(Feed::Listing(listing)).await.map_err(|_| End::Unwanted)?;
    Ok(revision)
}

/// Watches from the revisions in `resume`, one for each range, and moves them
/// forward with what was seen.
async fn follow(client: &Client, resume: &mut [i64; WATCHED.len()], send: &mpsc::Sender<Feed>) -> End {
    let opened = timeout(OPEN, open(client, resume)).await;
    let (mut requests, mut answers) = match opened {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return End::Broken(error.to_string()),
        Err(_) => return End::Broken("the watch does not open".into()),
    };
    let mut tick = interval_at(Instant::now() + SIGN_OF_LIFE, SIGN_OF_LIFE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut silent, mut created) = (0, 0);
    loop {
        tokio::select! {
            answer = answers.message() => {
                silent = 0;
                let answer = match answer {
                    Ok(Some(answer)) => answer,
                    Ok(None) => return End::Broken("the watch ended".into()),
                    Err(error) => return End::Broken(error.to_string()),
                };
                if answer.created() {
                    created += 1;
                }
                if answer.created() && created == WATCHED.len() && send.send(Feed::Back).await.is_err() {
                    return End::Unwanted;
                }
                if let Err(end) = take(&answer, resume, send).await {
                    return end;
                }
            }
            _ = tick.tick() => {
                silent += 1;
                if silent > 2 {
                    return End::Broken("the watch is silent".into());
                }
                if let Err(error) = requests.request_progress().await {
                    return End::Broken(error.to_string());
                }
            }
            () = send.closed() => return End::Unwanted,
        }
    }
}

async fn open(
    client: &Client,
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
    let stream =
        client.watch_client().max_decoding_message_size(ANSWER_MAX).watch(key(0), Some(options(0))).await?;
    let (mut requests, answers) = stream.split();
    for index in 1..WATCHED.len() {
        requests.watch(key(index), Some(options(index))).await?;
    }
    Ok((requests, answers))
}

/// Passes on what an answer tells.
async fn take(
    answer: &WatchResponse,
    resume: &mut [i64; WATCHED.len()],
    send: &mpsc::Sender<Feed>,
) -> Result<(), End> {
    if answer.canceled() {
        if answer.compact_revision() > 0 {
            return Err(End::Compacted);
        }
        warn!("etcd cancelled the watch: {}", answer.cancel_reason());
        return Err(End::Broken(answer.cancel_reason().to_owned()));
    }
    // While etcd catches a watch up, the header may be ahead of the events: they
    // come in parts, all under the newest revision.
    let told = answer.events().iter().filter_map(|event| event.kv()).map(|kv| kv.mod_revision()).max();
    let revision = told.unwrap_or_else(|| answer.header().map_or(0, |header| header.revision()));
    let events: Vec<Event> = answer.events().iter().filter_map(event).collect();
    // The answer to a requested progress belongs to no watch, and in etcd 3.4
    // it may overtake events: it is a sign of life and nothing else.
    let index = usize::try_from(answer.watch_id() - 1).ok();
    let watch = index.and_then(|index| resume.get_mut(index));
    let Some(next) = watch.filter(|_| !answer.created()) else { return Ok(()) };
    *next = (*next).max(revision + 1);
    if events.is_empty() {
        return Ok(());
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
