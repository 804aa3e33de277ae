//! For tests of parsers of outside text: randomly damaged input, and growth with its size.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The environment variable with the number of damaged inputs of a test.
pub const ROUNDS_VARIABLE: &str = "CONTRAIL_FUZZ_ROUNDS";
/// The environment variable with the seed of a test.
pub const SEED_VARIABLE: &str = "CONTRAIL_TEST_SEED";
const DEFAULT_ROUNDS: u64 = 300;
/// The most changes of one input.
const MAX_CHANGES: u64 = 8;
/// Pieces that mean something to one of the parsers.
const PIECES: [&[u8]; 24] = [
    b"[",
    b"]",
    b"[[",
    b"{",
    b"}",
    b"\"",
    b"'",
    b"\"\"\"",
    b"=",
    b",",
    b":",
    b".",
    b"#",
    b"\n",
    b"\\",
    b"\\u0000",
    b"://",
    b"@",
    b"-1",
    b"99999999999999999999",
    b"1e999",
    b"\0",
    b"\xff",
    b"\xe2\x80\xae",
];

/// Pseudo-random numbers (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % limit).unwrap_or_default()
    }
}

/// Says how to repeat a test that fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with {SEED_VARIABLE}={}", self.0);
        }
    }
}

/// Calls `parse` with a valid input, and with many that were damaged at random. `parse` must not
/// panic, and checks what it returns.
pub fn for_damaged_input(valid: &[u8], parse: impl Fn(&[u8])) {
    let variable = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let rounds = variable(ROUNDS_VARIABLE).unwrap_or(DEFAULT_ROUNDS);
    let seed = variable(SEED_VARIABLE).unwrap_or_else(|| RandomState::new().hash_one(0));
    let seed = Seed(seed);
    let mut random = Random(seed.0);
    parse(valid);
    for _ in 0..rounds {
        let mut input = valid.to_vec();
        for _ in 0..=random.next() % MAX_CHANGES {
            damage(&mut input, &mut random);
        }
        parse(&input);
    }
}

fn damage(input: &mut Vec<u8>, random: &mut Random) {
    let start = random.below(input.len() + 1);
    let end = (start + random.below(16)).min(input.len());
    match random.next() % 5 {
        0 => drop(input.drain(start..end)),
        1 => {
            let piece = PIECES[random.below(PIECES.len())];
            input.splice(start..start, piece.iter().copied());
        }
        2 => {
            // A copy of another part.
            let from = random.below(input.len() + 1);
            let part = input[from..(from + random.below(64)).min(input.len())].to_vec();
            input.splice(start..end, part);
        }
        3 => {
            if let Some(byte) = input.get_mut(start) {
                *byte ^= 1 << random.below(8);
            }
        }
        _ => {
            let piece = PIECES[random.below(PIECES.len())];
            let many = piece.repeat(random.below(300));
            input.splice(start..end, many);
        }
    }
}

/// Fails if `work` needs much more than four times the CPU time for an input that is four times
/// as large: quadratic work needs sixteen times. CPU time of this thread, so that a busy machine
/// makes no difference; the smallest of several measurements counts.
///
/// # Panics
/// If it grows faster.
pub fn assert_linear(name: &str, size: usize, work: impl Fn(usize)) {
    // The first call also pays for what is set up once.
    work(size);
    let mut ratios = vec![];
    for _ in 0..5 {
        let small = cpu_time(|| work(size)).max(Duration::from_micros(100));
        let large = cpu_time(|| work(4 * size));
        let ratio = large.as_secs_f64() / small.as_secs_f64();
        if ratio < 9.0 {
            return;
        }
        ratios.push(ratio);
    }
    panic!("{name}: four times the input takes {ratios:.1?} times as long");
}

fn cpu_time(work: impl FnOnce()) -> Duration {
    // Exact, while getrusage counts ticks of the kernel.
    let now = || {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the CPU time");
        Duration::from(time)
    };
    let start = now();
    work();
    now().saturating_sub(start)
}
