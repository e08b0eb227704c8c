//! A sorted map whose copies share what they have in common: copying costs nothing, and
//! changing an entry of a map that has copies costs a small part of the map.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, btree_map},
    fmt,
    ops::{Bound, Index, RangeBounds},
    sync::Arc,
};

/// Entries of one part at most.
const PART: usize = 256;

type Part<K, V> = Arc<BTreeMap<K, V>>;

/// The map: parts, none of them empty, by a key at or below all of theirs and above all of the
/// part before.
pub struct Shared<K, V> {
    parts: Arc<BTreeMap<K, Part<K, V>>>,
    len: usize,
}

impl<K, V> Shared<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries, sorted.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + Clone {
        self.parts.values().flat_map(|part| part.iter())
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// The values, by their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// The first entry.
    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }
}

impl<K: Ord, V> Shared<K, V> {
    /// Where the part begins that a key belongs to.
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &Part<K, V>)>
    where
        K: Borrow<Q>,
    {
        let below = (Bound::Unbounded, Bound::Included(key));
        self.parts.range::<Q, _>(below).next_back()
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.place(key)?.1.get(key)
    }

    /// Whether a key has a value.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The entries of a range of keys, sorted.
    pub fn range<Q: Ord + ?Sized, R: RangeBounds<Q> + Clone>(
        &self,
        range: R,
    ) -> impl Iterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
    {
        let first = match range.start_bound() {
            Bound::Included(key) | Bound::Excluded(key) => self.place(key).map(|(first, _)| first.borrow()),
            Bound::Unbounded => None,
        };
        let from = (first.map_or(Bound::Unbounded, Bound::Included), range.end_bound());
        self.parts.range::<Q, _>(from).flat_map(move |(_, part)| part.range::<Q, _>(range.clone()))
    }
}

impl<K: Ord + Clone, V: Clone> Shared<K, V> {
    /// Adds or replaces an entry; gives the value before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let first = self.place(&key).map(|(first, _)| first.clone());
        let parts = Arc::make_mut(&mut self.parts);
        let first = first.unwrap_or_else(|| {
            // It comes before all others: the first part begins with it from now on.
            let part = parts.pop_first().map_or_else(Part::default, |(_, part)| part);
            parts.insert(key.clone(), part);
            key.clone()
        });
        let part = Arc::make_mut(parts.entry(first).or_default());
        let before = part.insert(key, value);
        if part.len() > PART
            && let Some(middle) = part.keys().nth(PART / 2).cloned()
        {
            let upper = part.split_off(&middle);
            parts.insert(middle, Arc::new(upper));
        }
        self.len += usize::from(before.is_none());
        before
    }

    /// Removes an entry; gives its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (first, part) = self.place(key)?;
        if !part.contains_key(key) {
            return None;
        }
        let first = first.clone();
        let parts = Arc::make_mut(&mut self.parts);
        let part = Arc::make_mut(parts.get_mut::<K>(&first)?);
        let before = part.remove(key);
        if part.is_empty() {
            parts.remove::<K>(&first);
        }
        self.len -= 1;
        before
    }

    /// A value that is to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let first = self.place(key).filter(|(_, part)| part.contains_key(key))?.0.clone();
        Arc::make_mut(Arc::make_mut(&mut self.parts).get_mut::<K>(&first)?).get_mut(key)
    }

    /// The values, by their keys, and no more of the map.
    pub fn into_values(self) -> impl Iterator<Item = V> {
        BTreeMap::from(self).into_values()
    }

    /// Keeps those entries alone that are wanted.
    pub fn retain(&mut self, mut wanted: impl FnMut(&K, &V) -> bool) {
        let gone: Vec<K> =
            self.iter().filter(|(key, value)| !wanted(key, value)).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| drop(self.remove(key)));
    }
}

impl<K, V> Clone for Shared<K, V> {
    fn clone(&self) -> Self {
        Self { parts: Arc::clone(&self.parts), len: self.len }
    }
}

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self { parts: Arc::default(), len: 0 }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Shared<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Shared<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && (Arc::ptr_eq(&self.parts, &other.parts) || self.iter().eq(other.iter()))
    }
}

impl<K: Eq, V: Eq> Eq for Shared<K, V> {}

impl<K: Ord, V> From<BTreeMap<K, V>> for Shared<K, V>
where
    K: Clone,
{
    fn from(mut all: BTreeMap<K, V>) -> Self {
        let len = all.len();
        let mut parts = BTreeMap::new();
        // Half full, as parts are that have come about one by one.
        while let Some(first) = all.first_key_value().map(|(key, _)| key.clone()) {
            let rest = all.keys().nth(PART / 2).cloned().map(|next| all.split_off(&next));
            parts.insert(first, Arc::new(std::mem::replace(&mut all, rest.unwrap_or_default())));
        }
        Self { parts: Arc::new(parts), len }
    }
}

impl<K: Ord + Clone, V: Clone> From<Shared<K, V>> for BTreeMap<K, V> {
    fn from(all: Shared<K, V>) -> Self {
        all.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl<K: Ord + Clone, V> FromIterator<(K, V)> for Shared<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        entries.into_iter().collect::<BTreeMap<K, V>>().into()
    }
}

impl<K: Ord + Clone, V, const N: usize> From<[(K, V); N]> for Shared<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Shared<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        entries.into_iter().for_each(|(key, value)| drop(self.insert(key, value)));
    }
}

impl<K: Borrow<Q> + Ord, Q: Ord + ?Sized, V> Index<&Q> for Shared<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("an index that is there")
    }
}

/// The entries of a map, sorted.
pub type Iter<'a, K, V> = std::iter::FlatMap<
    btree_map::Values<'a, K, Part<K, V>>,
    btree_map::Iter<'a, K, V>,
    fn(&'a Part<K, V>) -> btree_map::Iter<'a, K, V>,
>;

impl<'a, K, V> IntoIterator for &'a Shared<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.parts.values().flat_map(|part| part.iter())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shared_map_behaves_as_a_map_and_copies_do_not_change(
            first in proptest::collection::btree_map(0..2000_u16, any::<u8>(), 0..900),
            changes in proptest::collection::vec((0..2000_u16, proptest::option::of(any::<u8>())), 0..900),
            from in 0..2000_u16,
            count in 0..500_u16,
        ) {
            let mut map = Shared::from(first.clone());
            let (mut model, copy) = (first.clone(), map.clone());
            for (key, value) in changes {
                let before = match value {
                    Some(value) => (map.insert(key, value), model.insert(key, value)),
                    None => (map.remove(&key), model.remove(&key)),
                };
                prop_assert_eq!(before.0, before.1);
                prop_assert_eq!(map.get(&key), model.get(&key));
            }
            prop_assert!(map.iter().eq(model.iter()) && (&map).into_iter().eq(model.iter()));
            prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
            prop_assert!(map.range(from..).eq(model.range(from..)));
            prop_assert!(map.range(..from).eq(model.range(..from)));
            prop_assert!(map.range(from..=from + count).eq(model.range(from..=from + count)));
            prop_assert!(map.values().rev().eq(model.values().rev()));
            prop_assert!(map.parts.values().all(|part| (1..=PART).contains(&part.len())));
            prop_assert_eq!(&map, &model.into());
            prop_assert!(copy.iter().eq(first.iter()), "a copy is another map");
            map.retain(|key, _| key % 3 == 0);
            prop_assert!(map.keys().all(|key| key % 3 == 0));
            if let Some(value) = map.get_mut(&from) {
                *value = 7;
                prop_assert_eq!(map[&from], 7);
            }
        }
    }
}
