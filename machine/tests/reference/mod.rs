//! A set-associative structure as its definition says: a list of ways for each
//! set, each with the time of its last use. Slow and obvious.

#[derive(Clone, Copy, Debug)]
pub enum Policy {
    Lru,
    TreePlru,
    /// With the state of the generator.
    Random(u64),
}

#[derive(Clone, Copy)]
struct Way {
    number: u64,
    used: u64,
}

pub struct Reference {
    sets: Vec<Vec<Option<Way>>>,
    /// `directions[set][depth][node]`: whether the next victim is in the right half.
    directions: Vec<Vec<Vec<bool>>>,
    policy: Policy,
    now: u64,
}

impl Reference {
    pub fn new(sets: usize, ways: usize, policy: Policy) -> Reference {
        let depth = ways.ilog2() as usize;
        let tree: Vec<Vec<bool>> = (0..depth).map(|d| vec![false; 1 << d]).collect();
        Reference { sets: vec![vec![None; ways]; sets], directions: vec![tree; sets], policy, now: 0 }
    }

    /// Whether `number` hits, and what its entry pushed out.
    pub fn access(&mut self, number: u64) -> (bool, Option<u64>) {
        self.now += 1;
        let set = (number % self.sets.len() as u64) as usize;
        let ways = self.sets[set].len();
        let hit = self.sets[set].iter().position(|way| way.is_some_and(|way| way.number == number));
        let empty = self.sets[set].iter().position(Option::is_none);
        let way = hit.or(empty).unwrap_or_else(|| match &mut self.policy {
            Policy::Lru => {
                (0..ways).min_by_key(|way| self.sets[set][*way].map(|way| way.used)).expect("a way")
            }
            Policy::TreePlru => {
                let mut at = 0;
                for level in &self.directions[set] {
                    at = at * 2 + usize::from(level[at]);
                }
                at
            }
            Policy::Random(state) => {
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                ((u128::from(*state >> 32) * ways as u128) >> 32) as usize
            }
        });
        let left = if hit.is_some() { None } else { self.sets[set][way].map(|way| way.number) };
        self.sets[set][way] = Some(Way { number, used: self.now });
        if let Policy::TreePlru = self.policy {
            let depth = self.directions[set].len();
            for level in 0..depth {
                let node = way >> (depth - level);
                let went_right = way >> (depth - level - 1) & 1 == 1;
                self.directions[set][level][node] = !went_right;
            }
        }
        (hit.is_some(), left)
    }

    pub fn contains(&self, number: u64) -> bool {
        let set = (number % self.sets.len() as u64) as usize;
        self.sets[set].iter().flatten().any(|way| way.number == number)
    }

    pub fn remove(&mut self, which: impl Fn(u64) -> bool) -> usize {
        let mut removed = 0;
        for way in self.sets.iter_mut().flatten() {
            if way.is_some_and(|way| which(way.number)) {
                *way = None;
                removed += 1;
            }
        }
        removed
    }

    pub fn len(&self) -> usize {
        self.sets.iter().flatten().flatten().count()
    }
}
