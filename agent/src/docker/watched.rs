//! What is known of the containers of this host's Docker: a listing of all of them, kept true
//! by looking at the container of each event.
//!
//! One container is looked at by a listing that asks for it alone, since an inspection waits
//! for the container's lock, which dockerd holds while the container starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::Result;
use bollard::models::{EventMessage, EventMessageTypeEnum};
use tracing::debug;

use super::engine::{Containers, Engine};

/// How long after an event dockerd may still write down what it tells of.
const SETTLED: Duration = Duration::from_millis(150);

/// The containers as they were seen last.
#[derive(Debug)]
pub(super) struct Watched {
    view: Containers,
    /// Those of which something was told, and when.
    told: BTreeMap<String, Instant>,
    /// When all were listed.
    listed: Option<Instant>,
    /// When something was told last.
    last: Instant,
}

impl Default for Watched {
    fn default() -> Self {
        // What happened before nobody knows.
        Self { view: Containers::default(), told: BTreeMap::new(), listed: None, last: Instant::now() }
    }
}

impl Watched {
    /// For how long Docker has told nothing.
    pub fn quiet(&self) -> Duration {
        self.last.elapsed()
    }

    /// Notes whose event this is.
    pub fn happened(&mut self, event: &EventMessage) {
        self.last = Instant::now();
        let Some(actor) = &event.actor else { return };
        let container = match event.typ {
            Some(EventMessageTypeEnum::CONTAINER) => actor.id.as_ref(),
            // Networks that come and go are listed at every look.
            _ => actor.attributes.as_ref().and_then(|attributes| attributes.get("container")),
        };
        if let Some(container) = container {
            self.told.insert(container.clone(), Instant::now());
        }
    }

    /// The containers as they are now: all are listed where that was `rest` ago, else those are
    /// looked at of which something was told.
    ///
    /// # Errors
    ///
    /// Docker does not answer.
    pub async fn look(&mut self, engine: &Engine, rest: Duration) -> Result<&Containers> {
        if self.listed.is_none_or(|listed| listed.elapsed() >= rest) {
            return self.list(engine).await;
        }
        let ids = self.told.keys().cloned().collect();
        let begun = Instant::now();
        self.look_at(engine, &ids).await?;
        self.told.retain(|_, told| *told + SETTLED > begun);
        Ok(&self.view)
    }

    /// Lists all containers.
    ///
    /// # Errors
    ///
    /// Docker does not answer.
    pub async fn list(&mut self, engine: &Engine) -> Result<&Containers> {
        let begun = Instant::now();
        self.view = engine.containers().await?;
        debug!("docker: all {} containers listed", self.view.ids.len());
        self.listed = Some(begun);
        self.told.retain(|_, told| *told + SETTLED > begun);
        Ok(&self.view)
    }

    /// Looks at some containers again.
    ///
    /// # Errors
    ///
    /// Docker does not answer.
    pub async fn look_at(&mut self, engine: &Engine, ids: &BTreeSet<String>) -> Result<&Containers> {
        if !ids.is_empty() {
            let now = engine.containers_of(ids).await?;
            debug!("docker: {} containers looked at", ids.len());
            self.view.replace(ids, now);
        }
        Ok(&self.view)
    }

    /// Whether something was told so shortly ago that it is to be looked at again.
    pub fn is_fresh(&self) -> bool {
        !self.told.is_empty()
    }
}

impl Containers {
    /// Has `now` in the place of what was known of these containers.
    fn replace(&mut self, ids: &BTreeSet<String>, now: Self) {
        self.ids.retain(|id| !ids.contains(id));
        self.places.retain(|place| !ids.contains(&place.container));
        self.ids.extend(now.ids);
        self.places.extend(now.places);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::{Router, extract::State, http::Uri, response::IntoResponse};
    use serde_json::json;

    use super::*;

    /// What a Docker of twenty containers was asked for.
    type Asked = Arc<Mutex<Vec<String>>>;

    async fn answer(State(asked): State<Asked>, uri: Uri) -> impl IntoResponse {
        let query = uri.query().unwrap_or_default().to_owned();
        let all = (0..20).map(|i| format!("c{i:02}"));
        let asks_for = |id: &String| !query.contains("filters") || query.contains(id);
        let listed: Vec<_> = all
            .filter(asks_for)
            .map(|id| json!({"Id": id, "Names": [format!("/{id}")], "State": "running"}))
            .collect();
        let path = uri.path().to_owned();
        if path.ends_with("/containers/json") {
            asked.lock().expect("no panic").push(query);
        }
        let body = if path.ends_with("/version") { json!({"ApiVersion": "1.41"}) } else { listed.into() };
        ([("content-type", "application/json")], body.to_string())
    }

    fn event(typ: EventMessageTypeEnum, id: &str, container: Option<&str>) -> EventMessage {
        let attributes = container.map(|id| json!({"container": id}));
        serde_json::from_value(json!({"Type": typ, "Actor": {"ID": id, "Attributes": attributes}}))
            .expect("an event")
    }

    async fn docker() -> (tempfile::TempDir, Engine, Asked) {
        let dir = tempfile::tempdir().expect("a folder");
        let (socket, asked) = (dir.path().join("docker.sock"), Asked::default());
        let listener = tokio::net::UnixListener::bind(&socket).expect("a socket");
        let router = Router::new().fallback(answer).with_state(Arc::clone(&asked));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let engine = Engine::connect(&socket).await.expect("it answers");
        (dir, engine, asked)
    }

    #[tokio::test]
    async fn thousands_of_containers_are_looked_at_by_requests_of_bounded_length() {
        let (_dir, engine, asked) = docker().await;
        let strange = (0..2000).map(|i| format!("{i:064}"));
        let ids = strange.chain(["c00".to_owned(), "c19".to_owned()]).collect();
        let found = engine.containers_of(&ids).await.expect("it answers");
        assert_eq!(found.ids.into_iter().collect::<Vec<_>>(), ["c00", "c19"]);
        let longest = asked.lock().expect("no panic").iter().map(String::len).max();
        assert!(longest.is_some_and(|longest| longest < 32 << 10), "{longest:?}");
    }

    #[tokio::test]
    async fn twenty_containers_that_start_cause_one_listing() {
        let (_dir, engine, asked) = docker().await;
        let (mut watched, rest) = (Watched::default(), Duration::from_secs(3600));
        watched.look(&engine, rest).await.expect("it answers");
        for i in 0..20 {
            let id = format!("c{i:02}");
            watched.told.clear();
            let kind = [EventMessageTypeEnum::CONTAINER, EventMessageTypeEnum::NETWORK][i % 2];
            match kind {
                EventMessageTypeEnum::CONTAINER => watched.happened(&event(kind, &id, None)),
                _ => watched.happened(&event(kind, "n1", Some(&id))),
            }
            let view = watched.look(&engine, rest).await.expect("it answers");
            assert_eq!(view.ids.len(), 20);
        }
        // A network alone is nobody's event.
        watched.told.clear();
        watched.happened(&event(EventMessageTypeEnum::NETWORK, "n1", None));
        watched.look(&engine, rest).await.expect("it answers");
        let queries = std::mem::take(&mut *asked.lock().expect("no panic"));
        let (of_one, of_all): (Vec<_>, Vec<_>) =
            queries.into_iter().partition(|query| query.contains("filters"));
        assert_eq!((of_all.len(), of_one.len()), (1, 20), "{of_all:?}");
        for (i, query) in of_one.iter().enumerate() {
            let named: Vec<_> = (0..20).filter(|n| query.contains(&format!("c{n:02}"))).collect();
            assert_eq!(named, [i], "{query}");
        }
        // After a while all are listed, whatever was told.
        watched.look(&engine, Duration::ZERO).await.expect("it answers");
        assert!(!asked.lock().expect("no panic")[0].contains("filters"));
    }

    #[test]
    fn docker_is_quiet_since_its_last_event() {
        let minute = Duration::from_secs(60);
        for typ in [EventMessageTypeEnum::CONTAINER, EventMessageTypeEnum::NETWORK] {
            let mut watched = Watched::default();
            watched.last = watched.last.checked_sub(minute).expect("the machine runs that long");
            assert!(watched.quiet() >= minute);
            let before = watched.last;
            watched.happened(&event(typ, "a", None));
            assert!(watched.last >= before + minute, "{typ}");
        }
    }

    #[test]
    fn container_that_is_read_again_is_replaced_and_one_that_is_gone_is_removed() {
        let place = |container: &str, endpoint: &str| super::super::engine::Place {
            container: container.into(),
            name: container.into(),
            running: true,
            network: "n".into(),
            on: "blue".into(),
            endpoint: endpoint.into(),
        };
        let of = |places: &[(&str, &str)]| Containers {
            ids: places.iter().map(|(container, _)| (*container).to_owned()).collect(),
            places: places.iter().map(|(container, endpoint)| place(container, endpoint)).collect(),
        };
        let mut view = of(&[("a", "1"), ("b", "2"), ("gone", "3")]);
        view.replace(
            &["a".to_owned(), "gone".to_owned(), "new".to_owned()].into(),
            of(&[("a", "4"), ("new", "5")]),
        );
        let found: Vec<_> = view.places.iter().map(|p| (&*p.container, &*p.endpoint)).collect();
        assert_eq!(found, [("b", "2"), ("a", "4"), ("new", "5")]);
        assert_eq!(view.ids.into_iter().collect::<Vec<_>>(), ["a", "b", "new"]);
    }
}
