//! The synchronizer against a slow re-implementation that keeps everything and starts from the beginning every time it is asked.

use pi0_tt::control::{AgeLimit, Aligned, CameraRules, NotUsable, Rules, Stamp, StampSource, StateAt, Synchronizer};
use proptest::prelude::*;

const CAMERAS: usize = 3;
/// The input after the cameras.
const JOINTS: usize = CAMERAS;
const MILLISECOND: i64 = 1_000_000;
const SECOND: i64 = 1000 * MILLISECOND;

/// What happens, in nanoseconds.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The clock shows another time.
    Clock(i64),
    /// A sample arrives.
    Sample { input: usize, stamp: Option<i64> },
    /// An observation is wanted.
    Align,
}

/// Limits in nanoseconds.
#[derive(Clone, Debug)]
struct Limits {
    receive: bool,
    max_skew: Option<i64>,
    joint_age: i64,
    image_age: [i64; CAMERAS],
    offset: [i64; CAMERAS],
}

/// Number of a sample among the events, and its stamp.
type Payload = (usize, i64);

/// What an observation is made of: the images' numbers, the skew, the numbers of the joint states and the time that they tell of; or each
/// input that keeps it from being made, and why.
type Outcome = Result<(Vec<usize>, i64, (usize, usize, i64)), Vec<(String, &'static str)>>;

#[derive(Clone, Copy, Debug)]
struct Sample {
    number: usize,
    stamp: i64,
    arrival: i64,
}

fn name(input: usize) -> String {
    if input == JOINTS { "joint_states".to_owned() } else { format!("camera_{input}") }
}

/// The samples of one input that count after `events`, in no order, and whether the last message had no stamp.
fn samples(events: &[Event], wanted: usize, limits: &Limits) -> (Vec<Sample>, bool) {
    let (mut list, mut unstamped): (Vec<Sample>, bool) = (Vec::new(), false);
    let (mut now, mut watched) = (SECOND, None);
    let span = limits.joint_age + limits.image_age.into_iter().max().unwrap();
    for (number, &event) in events.iter().enumerate() {
        if let Event::Clock(time) = event {
            now = time;
        }
        let Event::Sample { input, stamp } = event else { continue };
        // Every arrival looks at the clock.
        if let Some(before) = watched {
            let jump: i64 = now - before;
            if !(-50 * MILLISECOND..=SECOND).contains(&jump) {
                // What is nearer to the clock after the jump than to the clock before it is of the time after it.
                list.retain(|sample| (sample.stamp - (sample.arrival + jump)).abs() < (sample.stamp - sample.arrival).abs());
                list.iter_mut().for_each(|sample| sample.arrival = now);
                watched = Some(now);
            }
        }
        watched = watched.max(Some(now));
        if input != wanted {
            continue;
        }
        let stamp = if limits.receive { Some(now) } else { stamp };
        unstamped = stamp.is_none();
        let Some(stamp) = stamp else { continue };
        while let Some(newest) = list.iter().copied().max_by_key(|sample| sample.stamp).filter(|newest| newest.stamp > stamp) {
            if newest.stamp - newest.arrival > 50 * MILLISECOND {
                list.retain(|sample| sample.number != newest.number);
            } else if newest.stamp - stamp > SECOND {
                list.clear();
            } else {
                break;
            }
        }
        if list.iter().all(|sample| sample.stamp <= stamp) {
            // Of two samples of the same stamp the second counts. Of a camera only the newest does.
            list.retain(|sample| wanted == JOINTS && sample.stamp != stamp);
            list.push(Sample { number, stamp, arrival: now });
            // Of more than `span` ago only the last is needed.
            let begin = now.min(stamp) - span;
            let last = list.iter().map(|sample| sample.stamp).filter(|&stamp| stamp < begin).max();
            list.retain(|sample| last.is_none_or(|last| sample.stamp >= last));
        }
    }
    (list, unstamped)
}

/// What an observation at `now` after `events` is made of.
fn expected(events: &[Event], limits: &Limits, now: i64) -> Outcome {
    let (mut images, mut problems) = (Vec::new(), Vec::new());
    let newest = |input: usize, offset: i64, age: i64| {
        let (list, unstamped) = samples(events, input, limits);
        let problem = |problem| if unstamped { "unstamped" } else { problem };
        let sample = list.into_iter().max_by_key(|sample| sample.stamp).ok_or(problem("missing"))?;
        let time = sample.stamp + offset;
        if now - time > age {
            Err(problem("stale"))
        } else if time - now > 50 * MILLISECOND {
            Err(problem("future"))
        } else {
            Ok((sample.number, time))
        }
    };
    for camera in 0..CAMERAS {
        match newest(camera, limits.offset[camera], limits.image_age[camera]) {
            Ok(image) => images.push(image),
            Err(problem) => problems.push((name(camera), problem)),
        }
    }
    if let Err(problem) = newest(JOINTS, 0, limits.joint_age) {
        problems.push((name(JOINTS), problem));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let first = images.iter().map(|image| image.1).min().unwrap();
    let last = images.iter().map(|image| image.1).max().unwrap();
    let skew = last - first;
    if limits.max_skew.is_some_and(|limit| skew > limit) {
        let oldest = images.iter().position(|image| image.1 == first).unwrap();
        return Err(vec![(name(oldest), "skewed")]);
    }
    let middle = first + skew / 2;
    let (joints, _) = samples(events, JOINTS, limits);
    let near = |sample: &&Sample| (sample.stamp - middle).abs() <= limits.joint_age;
    let before = joints.iter().filter(near).filter(|sample| sample.stamp <= middle).max_by_key(|sample| sample.stamp);
    let after = joints.iter().filter(near).filter(|sample| sample.stamp > middle).min_by_key(|sample| sample.stamp);
    let state = match (before, after) {
        (Some(before), Some(after)) if before.stamp < middle => (before.number, after.number, middle),
        (Some(held), _) | (None, Some(held)) => (held.number, held.number, held.stamp),
        (None, None) => return Err(vec![(name(JOINTS), "apart")]),
    };
    Ok((images.into_iter().map(|image| image.0).collect(), skew, state))
}

fn found(result: Result<Aligned<'_, Payload, Payload>, Vec<(String, NotUsable)>>) -> Outcome {
    match result {
        Ok(aligned) => {
            let state = match aligned.joints {
                StateAt::Held(&(number, stamp)) => (number, number, stamp),
                StateAt::Between { before, after, weight } => {
                    (before.0, after.0, before.1 + (weight * (after.1 - before.1) as f64).round() as i64)
                }
            };
            let images = aligned.cameras.iter().map(|&(&(number, _), _)| number).collect();
            Ok((images, (aligned.skew * 1e9).round() as i64, state))
        }
        Err(problems) => Err(problems.into_iter().map(|(input, problem)| (input, problem.kind())).collect()),
    }
}

fn synchronizer(limits: &Limits) -> Synchronizer<Payload, Payload> {
    let seconds = |nanoseconds: i64| nanoseconds as f64 / 1e9;
    let age = |nanoseconds: i64| AgeLimit::from_milliseconds(nanoseconds as f64 / 1e6);
    let rules = Rules {
        stamps: if limits.receive { StampSource::Receive } else { StampSource::Header },
        max_skew: limits.max_skew.map(seconds),
        joint_age: age(limits.joint_age),
    };
    let camera =
        |camera: usize| CameraRules { max_age: age(limits.image_age[camera]), stamp_offset: seconds(limits.offset[camera]) };
    Synchronizer::new(rules, (0..CAMERAS).map(|index| (name(index), camera(index))))
}

/// Hands the events to a synchronizer and gives `check` what it answers, the events until then, and the time.
fn replay(events: &[Event], limits: &Limits, mut check: impl FnMut(&[Event], Outcome, i64)) {
    let (mut synchronizer, mut now) = (synchronizer(limits), SECOND);
    for (number, &event) in events.iter().enumerate() {
        let clock = Stamp::from_nanoseconds(now);
        let payload = |stamp: Option<i64>| (number, stamp.filter(|_| !limits.receive).unwrap_or(now));
        match event {
            Event::Clock(time) => now = time,
            Event::Sample { input: JOINTS, stamp } => {
                let _ = synchronizer.push_joints(stamp.map(Stamp::from_nanoseconds), clock, payload(stamp));
            }
            Event::Sample { input, stamp } => {
                let _ = synchronizer.push_image(input, stamp.map(Stamp::from_nanoseconds), clock, payload(stamp));
            }
            Event::Align => check(&events[..number], found(synchronizer.align(clock)), now),
        }
    }
}

/// Random arrivals of `count` events around a clock that runs, stands still, jumps and loops. Stamps are multiples of `grid` milliseconds.
fn events(count: usize, grid: i64) -> impl Strategy<Value = Vec<Event>> {
    // Milliseconds between a stamp and its arrival: in order, out of order, ahead, far off.
    let delay = prop_oneof![12 => 0..30i64, 3 => -40..300i64, 1 => -300..-40i64, 1 => -4000..4000i64];
    let step = prop_oneof![
        20 => (0..25i64).prop_map(Step::Run),
        6 => Just(Step::Align),
        1 => (-20_000..20_000i64).prop_map(Step::Run),
        1 => Just(Step::Loop),
        40 => (0..=CAMERAS, delay.clone(), prop::bool::weighted(0.02)).prop_map(|(input, delay, unstamped)| Step::Sample { input, delay, unstamped, ahead: 0 }),
        // What comes before the clock of its time.
        1 => (0..=CAMERAS, delay, -9_000..9_000i64).prop_map(|(input, delay, ahead)| Step::Sample { input, delay, unstamped: false, ahead }),
    ];
    prop::collection::vec(step, count).prop_map(move |steps| {
        let mut now = 1000;
        let mut events = Vec::new();
        for step in steps {
            match step {
                Step::Run(milliseconds) => now = (now + milliseconds).max(1),
                Step::Loop => now = 1000,
                _ => {}
            }
            events.push(match step {
                Step::Run(_) | Step::Loop => Event::Clock(now * MILLISECOND),
                Step::Align => Event::Align,
                Step::Sample { input, delay, unstamped, ahead } => {
                    let stamp = (now - delay + ahead).div_euclid(grid) * grid * MILLISECOND;
                    Event::Sample { input, stamp: (!unstamped).then_some(stamp) }
                }
            });
        }
        events
    })
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Run(i64),
    Loop,
    Align,
    Sample { input: usize, delay: i64, unstamped: bool, ahead: i64 },
}

fn limits() -> impl Strategy<Value = Limits> {
    let milliseconds = |range: std::ops::Range<i64>| range.prop_map(|value| value * MILLISECOND);
    (
        prop::bool::weighted(0.1),
        prop::option::of(milliseconds(5..150)),
        milliseconds(10..400),
        prop::array::uniform3(milliseconds(50..2000)),
        prop::array::uniform3(milliseconds(-60..20)),
    )
        .prop_map(|(receive, max_skew, joint_age, image_age, offset)| Limits {
            receive,
            max_skew,
            joint_age,
            image_age,
            offset,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_arrivals_and_clock_jumps_gives_what_keeping_everything_gives(events in events(250, 7), limits in limits()) {
        replay(&events, &limits, |before, found, now| assert_eq!(found, expected(before, &limits, now), "{limits:?}"));
    }

    #[test]
    fn thinned_joint_states_are_at_most_five_milliseconds_worse_than_all_of_them(events in events(400, 1), limits in limits()) {
        replay(&events, &limits, |before, found, now| {
            let expected = expected(before, &limits, now);
            match (found, expected) {
                (Ok((images, skew, (.., time))), Ok((all_images, all_skew, (.., all_time)))) => {
                    assert_eq!((images, skew), (all_images, all_skew));
                    assert!((time - all_time).abs() <= 5 * MILLISECOND, "{time} instead of {all_time}");
                }
                (Err(problems), Err(all_problems)) => assert_eq!(problems, all_problems),
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        });
    }
}
