//! Real-time chunking against LeRobot: `rtc.safetensors` holds chunks of its π0 guided with each schedule, with the weights of the rows and
//! of the steps that it used. The model and the observation are those of the golden set tiny.

mod common;

use std::{fs, path::Path};

use pi0_tt::{
    backend::{
        Backend, BackendError,
        reference::{Reference, ReferenceOptions},
    },
    model::{DenoiseRequest, EulerSchedule, Guidance, PrefixSchedule, guidance_weight},
    verify::{Golden, Run},
};
use safetensors::SafeTensors;

use common::data;

/// What LeRobot was asked for.
const DELAY: usize = 2;
const HORIZON: usize = 6;
const MAX_WEIGHT: f64 = 10.0;
/// Columns that the robot uses.
const COLUMNS: usize = 14;
const SCHEDULES: [(&str, PrefixSchedule); 4] = [
    ("LINEAR", PrefixSchedule::Linear),
    ("EXP", PrefixSchedule::Exp),
    ("ONES", PrefixSchedule::Ones),
    ("ZEROS", PrefixSchedule::Zeros),
];

struct Guided {
    file: Vec<u8>,
    golden: Golden,
    model: Reference,
}

impl Guided {
    fn open(file: &Path, golden: &Path) -> Self {
        let golden = Golden::open(golden).unwrap();
        let model = Reference::new(golden.geometry, golden.weights.clone(), ReferenceOptions::default()).unwrap();
        Self { file: fs::read(file).unwrap(), golden, model }
    }

    fn small() -> Self {
        Self::open(&data("rtc.safetensors"), &data("golden_tiny"))
    }

    fn expected(&self, name: &str) -> Vec<f32> {
        floats(&SafeTensors::deserialize(&self.file).unwrap(), name)
    }

    /// The left-over rows as LeRobot pads them.
    fn guidance(&self, schedule: PrefixSchedule) -> Guidance {
        let (rows, columns) = (self.golden.geometry.horizon, self.golden.geometry.action_dim);
        let mut previous: Vec<f32> = Vec::new();
        for row in self.expected("rtc.prev_left_over").chunks(COLUMNS) {
            previous.extend(row);
            previous.resize(previous.len().next_multiple_of(columns), 0.0);
        }
        previous.resize(rows * columns, 0.0);
        Guidance { previous, weights: schedule.prefix_weights(DELAY, HORIZON, rows), max_weight: MAX_WEIGHT }
    }

    fn request(&self, guidance: Option<Guidance>) -> DenoiseRequest {
        DenoiseRequest { noise: self.expected("noise"), steps: self.golden.steps, guidance }
    }

    fn run(&self) -> Run {
        self.golden.runs().unwrap().into_iter().find(|run| run.actions == "runA.actions").unwrap()
    }

    /// The robot's columns of a chunk.
    fn actions(&mut self, guidance: Option<Guidance>) -> Vec<f32> {
        let chunk = self.model.infer(&self.run().inputs, &self.request(guidance)).unwrap();
        chunk.actions.chunks(self.golden.geometry.action_dim).flat_map(|row| row[..COLUMNS].to_vec()).collect()
    }

    fn every_chunk_equals_lerobots(&mut self) {
        for (name, schedule) in SCHEDULES {
            let guidance = self.guidance(schedule);
            let worst = largest_difference(&self.actions(Some(guidance)), &self.expected(&format!("rtc.{name}.actions")));
            println!("{name}: {worst:.2e}");
            assert!(worst <= 1e-5, "{name}: {worst}");
        }
        let worst = largest_difference(&self.actions(None), &self.expected("base.actions"));
        assert!(worst <= 1e-5, "free: {worst}");
    }
}

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap().data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // `max` would lose a NaN.
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |worst, next| if next > worst || next.is_nan() { next } else { worst })
}

#[test]
fn weights_of_rows_and_steps_are_lerobots_to_the_bit() {
    let golden = Guided::small();
    for (name, schedule) in SCHEDULES {
        let weights = schedule.prefix_weights(DELAY, HORIZON, golden.golden.geometry.horizon);
        assert_eq!(weights, golden.expected(&format!("rtc.{name}.weights")), "{name}");
    }
    let schedule = EulerSchedule::new(golden.golden.steps).unwrap();
    let weights: Vec<f32> = (0..schedule.steps()).map(|k| guidance_weight(schedule.exact_time(k), MAX_WEIGHT)).collect();
    assert_eq!(weights, golden.expected("rtc.guidance_weights"));
}

#[test]
fn weights_of_rows_are_lerobots_for_any_delay_and_horizon() {
    let file = fs::read(data("rtc_previous.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let mut compared = 0;
    for name in file.names().into_iter().filter(|name| name.starts_with("weights.")) {
        let [_, schedule, delay, horizon, rows] = name.split('.').collect::<Vec<_>>()[..] else { panic!("{name}") };
        let schedule = SCHEDULES.into_iter().find(|(known, _)| *known == schedule).unwrap().1;
        let [delay, horizon, rows] = [delay, horizon, rows].map(|number| number.parse().unwrap());
        let worst = largest_difference(&schedule.prefix_weights(delay, horizon, rows), &floats(&file, name));
        // torch adds the line up in another order.
        assert!(worst <= 2e-7, "{name}: {worst}");
        compared += 1;
    }
    assert_eq!(compared, 4 * 9);
}

#[test]
fn guided_chunks_equal_lerobots() {
    Guided::small().every_chunk_equals_lerobots();
}

#[test]
fn guided_chunks_equal_lerobots_on_its_own_checkpoint() {
    if let (Some(file), Some(golden)) = (common::golden("extra/rtc.safetensors"), common::golden("tiny_f32")) {
        Guided::open(&file, &golden).every_chunk_equals_lerobots();
    }
}

#[test]
fn guidance_without_weight_leaves_every_bit_of_a_chunk() {
    let mut golden = Guided::small();
    let guidance = Guidance { weights: vec![0.0; 10], ..golden.guidance(PrefixSchedule::Ones) };
    assert_eq!(golden.actions(Some(guidance)), golden.actions(None));
}

#[test]
fn guided_rows_follow_the_chunk_before_and_the_others_do_not() {
    let mut golden = Guided::small();
    let guidance = golden.guidance(PrefixSchedule::Zeros);
    let previous: Vec<f32> = guidance.previous.chunks(32).flat_map(|row| row[..COLUMNS].to_vec()).collect();
    let (free, guided) = (golden.actions(None), golden.actions(Some(guidance)));
    let worst = |actions: &[f32], rows: std::ops::Range<usize>| {
        let values = rows.start * COLUMNS..rows.end * COLUMNS;
        largest_difference(&actions[values.clone()], &previous[values])
    };
    assert!(worst(&guided, 0..DELAY) < 0.1 * worst(&free, 0..DELAY), "{} {}", worst(&guided, 0..2), worst(&free, 0..2));
    assert!(worst(&guided, DELAY..10) > 0.1, "rows without a weight were guided");
}

#[test]
fn guidance_that_is_not_whole_and_finite_is_refused_by_name() {
    let mut golden = Guided::small();
    let inputs = golden.run().inputs;
    let mut refusal = |change: &dyn Fn(&mut Guidance)| {
        let mut guidance = golden.guidance(PrefixSchedule::Linear);
        change(&mut guidance);
        let request = golden.request(Some(guidance));
        golden.model.infer(&inputs, &request).unwrap_err()
    };
    let text = refusal(&|guidance| guidance.previous[33] = f32::NAN).to_string();
    assert!(text.starts_with("The chunk before holds the value NaN at index 33"), "{text}");
    let text = refusal(&|guidance| guidance.previous.truncate(32)).to_string();
    assert!(text.starts_with("The chunk before has 32 values"), "{text}");
    let text = refusal(&|guidance| guidance.weights.push(0.0)).to_string();
    assert!(text.starts_with("The guidance's weight of rows has 11 values"), "{text}");
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = refusal(&|guidance| guidance.max_weight = weight);
        assert!(matches!(error, BackendError::GuidanceWeight(_)), "{error}");
    }
}
