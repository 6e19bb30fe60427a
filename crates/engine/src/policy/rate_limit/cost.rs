//! What calls of one method cost, learnt from what the upstream says of each.

use std::sync::atomic::{AtomicU32, Ordering};

/// The cost of the next call of a method, by what the last ones took.
#[derive(Debug)]
pub struct LearnedCost(AtomicU32);

impl Default for LearnedCost {
    fn default() -> Self {
        Self(AtomicU32::new(1))
    }
}

impl LearnedCost {
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes in what a call took. A dearer one counts at once; cheaper ones bring the cost
    /// down by a quarter of the difference each, so that params that cost more now and then
    /// are not forgotten by the next call.
    pub fn observe(&self, took: u32) {
        let next = |known: u32| Some(if took >= known { took } else { known - (known - took).div_ceil(4) });
        // Never refused: `next` always gives a value.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_rises_at_once_and_falls_slowly() {
        let cost = LearnedCost::default();
        assert_eq!(cost.get(), 1);
        for (took, expected) in [(100, 100), (20, 80), (20, 65), (200, 200), (200, 200)] {
            cost.observe(took);
            assert_eq!(cost.get(), expected);
        }
        (0..100).for_each(|_| cost.observe(0));
        assert_eq!(cost.get(), 0);
    }
}
