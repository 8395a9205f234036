//! Every target on its seeds, and on each of them damaged: what `make fuzz` does
//! for longer.

use registry_fuzz::{TARGETS, seeds};

/// Places in a seed that are damaged, at most.
const PLACES: usize = 15;

#[test]
fn damaged_seeds() {
    for (name, target) in TARGETS {
        let seeds = seeds::of(name);
        assert!(!seeds.is_empty());
        for seed in &seeds {
            target(seed);
            let step = seed.len().div_ceil(PLACES).max(1);
            for at in (0..seed.len()).step_by(step) {
                target(&seed[..at]);
                let mut damaged = seed.clone();
                for change in [0xff, 1 << (at % 8)] {
                    damaged[at] ^= change;
                    target(&damaged);
                }
                let spliced = [&seed[..at], &seeds[at % seeds.len()]].concat();
                target(&spliced);
            }
        }
    }
}
