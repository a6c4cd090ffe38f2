//! Plays a bag into the policy node over DDS and records what the node publishes.

use std::{
    cell::RefCell,
    io::{IsTerminal, Write, stderr},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use pi0_tt::replay::BagReader;
use pi0_tt_r2r::{Client, ClientError, Player, Recorder, Remap, Timeline};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Play a bag into the policy node over DDS, at the bag's timing, and record what the node publishes
///
/// Waits until the node subscribes to every topic of the bag. Header stamps become the time of publishing, so that the node sees fresh
/// inputs; with --clock they stay, and the node follows the time of the bag. The output bag holds the node's trajectories, action chunks and diagnostics, and the played inputs without the pictures.
#[derive(Parser)]
#[command(version, max_term_width = 120)]
struct Args {
    /// rosbag2 folder or .mcap file to play
    bag: PathBuf,
    /// Folder of the bag to record; must not exist
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    /// Name of the policy node
    #[arg(long, value_name = "NAME", default_value = "/policy")]
    node: String,
    /// Publish a topic of the bag under another name; can be repeated
    #[arg(long = "map", value_name = "BAG_TOPIC=TOPIC")]
    maps: Vec<Remap>,
    /// Speed, 1 being that of the bag
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    rate: f64,
    /// Tell the time of the bag on /clock, for a node with use_sim_time
    #[arg(long)]
    clock: bool,
    /// Play until interrupted
    #[arg(long = "loop")]
    repeat: bool,
    /// Seconds to wait for the node
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = positive)]
    wait: f64,
    /// Seconds to go on recording after the last message
    #[arg(long, value_name = "SECONDS", default_value_t = 1.5, value_parser = positive)]
    drain: f64,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if number > 0.0 && number < 1e6 { Ok(number) } else { Err("it must be above 0 and below a million".into()) }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), ClientError> {
    let bag = BagReader::open(&args.bag)?;
    let length = bag.time_range().map_or(Duration::ZERO, |(start, end)| Duration::from_nanos(end - start));
    let mut client = Client::new("bag_play")?;
    let timeline = if args.clock { Timeline::Bag } else { Timeline::Machine };
    let player = Player::new(&mut client, &bag, &args.maps, timeline)?;
    let patience = Duration::from_secs_f64(args.wait);
    player.wait_for_subscribers(&mut client, patience)?;
    let mut recorder = Recorder::new(&args.output, &mut client, &args.node, &bag)?;
    client.wait_for_publishers(patience)?;
    // The node's side of the matching may be a moment later.
    settle(&mut client, Duration::from_millis(300), |_, incoming| recorder.record(player.time(Duration::ZERO), incoming))?;

    // Until here a signal ends the program; from here on it ends playing, and the recorded bag is completed.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // These two can always be registered.
        let _ = signal_hook::flag::register(signal, interrupted.clone());
    }
    let progress = RefCell::new(Progress::new(length));
    let recorder = RefCell::new(recorder);
    loop {
        let whole = player.play(
            args.rate,
            |topic, time, data| {
                progress.borrow_mut().published += 1;
                recorder.borrow_mut().record_input(topic, time, data)?;
                Ok(true)
            },
            |at, free| {
                let incoming = client.spin(free.min(SPIN));
                recorder.borrow_mut().record(player.time(at), &incoming)?;
                progress.borrow_mut().show(at, recorder.borrow().counts());
                Ok(!interrupted.load(Ordering::Relaxed))
            },
        )?;
        if !whole || !args.repeat {
            break;
        }
    }
    let mut recorder = recorder.into_inner();
    settle(&mut client, Duration::from_secs_f64(args.drain), |elapsed, incoming| {
        let into = length + elapsed.mul_f64(args.rate);
        player.tell_time(into)?;
        recorder.record(player.time(into), incoming)
    })?;
    progress.into_inner().end(length, recorder.counts());
    recorder.finish()
}

/// Longest wait for something to arrive: what else is to be done comes that late.
const SPIN: Duration = Duration::from_millis(10);

/// Takes what arrives during `time`, and how much of it has passed.
fn settle(
    client: &mut Client,
    time: Duration,
    mut take: impl FnMut(Duration, &[pi0_tt_r2r::Incoming]) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    let start = Instant::now();
    while let Some(left) = time.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        let incoming = client.spin(left.min(SPIN));
        take(start.elapsed(), &incoming)?;
    }
    Ok(())
}

/// A line on standard error: rewritten in place on a terminal, once per second elsewhere.
struct Progress {
    length: Duration,
    published: u64,
    shown: Instant,
    terminal: bool,
}

impl Progress {
    fn new(length: Duration) -> Self {
        Self { length, published: 0, shown: Instant::now(), terminal: stderr().is_terminal() }
    }

    fn show(&mut self, at: Duration, counts: [u64; 3]) {
        let every = Duration::from_millis(if self.terminal { 100 } else { 1000 });
        if self.shown.elapsed() >= every {
            self.shown = Instant::now();
            self.print(at, counts, if self.terminal { "\r" } else { "\n" });
        }
    }

    fn end(&self, at: Duration, counts: [u64; 3]) {
        self.print(at, counts, "\n");
    }

    fn print(&self, at: Duration, [trajectories, chunks, diagnostics]: [u64; 3], end: &str) {
        let (at, length) = (at.min(self.length).as_secs_f64(), self.length.as_secs_f64());
        let published = self.published;
        let mut out = stderr();
        // A closed standard error is no reason to end playing.
        let _ = write!(
            out,
            "  {at:4.1} of {length:.1} s  played {published:5}  received {chunks:3} chunks, {trajectories:3} trajectories, {diagnostics:2} diagnostics{end}"
        );
        let _ = out.flush();
    }
}
