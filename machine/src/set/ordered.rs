//! Sets in the order of their last use.

use super::Key;

/// Which ways hold `key`, as bits.
#[inline(always)]
fn matches<K: Key>(keys: &[K], key: K) -> u32 {
    // Without an exit in the middle, so that it becomes compares of vectors.
    keys.iter().enumerate().fold(0, |bits, (way, k)| bits | u32::from(*k == key) << way)
}

/// Moves the first `way` ways one back and puts `front` before them.
#[inline(always)]
fn shift_n<T: Copy, const N: usize>(row: &mut [T; N], way: usize, front: T) {
    let old = *row;
    row[0] = front;
    // A select for each way instead of a loop of unknown length.
    for i in 1..N {
        row[i] = if i <= way { old[i - 1] } else { old[i] };
    }
}

#[inline(always)]
fn shift<T: Copy>(row: &mut [T], way: usize, front: T) {
    row.copy_within(..way, 1);
    row[0] = front;
}

#[inline(always)]
pub(super) fn get_n<K: Key, V: Copy, const N: usize>(
    keys: &mut [K; N],
    values: &mut [V; N],
    key: K,
    admit: impl Fn(&V) -> bool,
) -> Option<V> {
    if keys[0] == key && admit(&values[0]) {
        return Some(values[0]);
    }
    let mut found = matches(keys, key);
    while found != 0 {
        let way = found.trailing_zeros() as usize;
        let value = values[way];
        if admit(&value) {
            shift_n(keys, way, key);
            shift_n(values, way, value);
            return Some(value);
        }
        found &= found - 1;
    }
    None
}

#[inline(always)]
pub(super) fn put_n<K: Key, V: Copy, const N: usize>(
    keys: &mut [K; N],
    values: &mut [V; N],
    key: K,
    value: V,
    same: impl Fn(&V) -> bool,
) -> Option<(K, V)> {
    let (way, replaces) = place(matches(keys, key), N, |way| same(&values[way]));
    let left = (!replaces && keys[way] != K::default()).then(|| (keys[way], values[way]));
    shift_n(keys, way, key);
    shift_n(values, way, value);
    left
}

/// The way that a new entry takes the place of, and whether it is of the same key.
#[inline(always)]
fn place(mut found: u32, ways: usize, same: impl Fn(usize) -> bool) -> (usize, bool) {
    while found != 0 {
        let way = found.trailing_zeros() as usize;
        if same(way) {
            return (way, true);
        }
        found &= found - 1;
    }
    // Empty ways are behind all others.
    (ways - 1, false)
}

#[inline(always)]
pub(super) fn touch_n<K: Key, const N: usize>(keys: &mut [K; N], key: K) -> bool {
    if keys[0] == key {
        return true;
    }
    let found = matches(keys, key);
    let way = (found | 1 << (N - 1)).trailing_zeros() as usize;
    shift_n(keys, way, key);
    found != 0
}

pub(super) fn get<K: Key, V: Copy>(
    keys: &mut [K],
    values: &mut [V],
    key: K,
    admit: impl Fn(&V) -> bool,
) -> Option<V> {
    let way = keys.iter().zip(&*values).position(|(k, v)| *k == key && admit(v))?;
    let value = values[way];
    shift(keys, way, key);
    shift(values, way, value);
    Some(value)
}

pub(super) fn put<K: Key, V: Copy>(
    keys: &mut [K],
    values: &mut [V],
    key: K,
    value: V,
    same: impl Fn(&V) -> bool,
) -> Option<(K, V)> {
    let (way, replaces) = place(matches(keys, key), keys.len(), |way| same(&values[way]));
    let left = (!replaces && keys[way] != K::default()).then(|| (keys[way], values[way]));
    shift(keys, way, key);
    shift(values, way, value);
    left
}

pub(super) fn touch<K: Key>(keys: &mut [K], key: K) -> bool {
    let found = keys.iter().position(|k| *k == key);
    shift(keys, found.unwrap_or(keys.len() - 1), key);
    found.is_some()
}

/// Removes what `keep` does not want, closing the gaps; how many.
pub(super) fn retain<K: Key, V: Copy>(
    keys: &mut [K],
    values: &mut [V],
    keep: impl Fn(K, &V) -> bool,
) -> usize {
    let mut kept = 0;
    let mut removed = 0;
    for way in 0..keys.len() {
        if keys[way] == K::default() {
            break;
        }
        if keep(keys[way], &values[way]) {
            (keys[kept], values[kept]) = (keys[way], values[way]);
            kept += 1;
        } else {
            removed += 1;
        }
    }
    keys[kept..kept + removed].fill(K::default());
    removed
}
