//! Checks what a policy node says over DDS while a bag is played into it. Ends with the first thing that is wrong.
//!
//! Messages are decoded by r2r's own generated code, which shares nothing with the node's. tests/peers/test_r2r.py starts the nodes.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use pi0_tt::replay::BagReader;
use pi0_tt_r2r::{Client, Player, Remap, Timeline};
use r2r::{
    QosProfile, WrappedTypesupport,
    builtin_interfaces::msg::Time,
    pi0_tt::msg::ActionChunk,
    qos::{DurabilityPolicy, ReliabilityPolicy},
    trajectory_msgs::msg::JointTrajectory,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Check what a policy node says over DDS while a bag is played into it
#[derive(Parser)]
struct Args {
    /// Bag of the node's inputs, recorded under the topic names that the node subscribes to without its own name
    bag: PathBuf,
    #[command(subcommand)]
    check: Check,
}

#[derive(Subcommand)]
enum Check {
    /// Types, quality of service and content of every output
    Outputs { node: String },
    /// Chunks begin again from 0 when the node is restarted after the line "restart now"
    Restart { node: String },
    /// A node computes from its own inputs alone: nothing is played into OTHER, which must stay silent
    Isolation { node: String, other: String },
}

type Checked<T> = Result<T, String>;

/// What a node published, decoded.
#[derive(Default)]
struct Heard {
    chunks: Vec<ActionChunk>,
    trajectories: Vec<JointTrajectory>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let checked = match &args.check {
        Check::Outputs { node } => outputs(&args.bag, node),
        Check::Restart { node } => restart(&args.bag, node),
        Check::Isolation { node, other } => isolation(&args.bag, node, other),
    };
    match checked {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn ensure(condition: bool, reason: impl FnOnce() -> String) -> Checked<()> {
    if condition { Ok(()) } else { Err(reason()) }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Subscribes to both outputs of a node; chunks have the even indices.
fn listen(client: &mut Client, node: &str) -> Checked<()> {
    let qos = QosProfile::default().keep_last(100);
    client.subscribe(&format!("{node}/action_chunk"), "pi0_tt/msg/ActionChunk", qos.clone()).map_err(text)?;
    client.subscribe(&format!("{node}/joint_trajectory"), "trajectory_msgs/msg/JointTrajectory", qos).map_err(text)?;
    Ok(())
}

/// Publishers of the bag's topics below the node's name, all matched.
fn player<'a>(client: &mut Client, bag: &'a BagReader, node: &str) -> Checked<Player<'a>> {
    let remaps: Vec<_> =
        bag.topics().iter().map(|topic| Remap { from: topic.name.clone(), to: format!("{node}{}", topic.name) }).collect();
    let player = Player::new(client, bag, &remaps, Timeline::Machine).map_err(text)?;
    player.wait_for_subscribers(client, PATIENCE).map_err(text)?;
    client.wait_for_publishers(PATIENCE).map_err(text)?;
    Ok(player)
}

/// Plays the bag until `enough`, again and again, and gives what every node that is listened to said.
fn play_until(
    client: &mut Client,
    player: &Player,
    nodes: usize,
    mut enough: impl FnMut(&[Heard]) -> Checked<bool>,
) -> Checked<Vec<Heard>> {
    let mut heard: Vec<Heard> = (0..nodes).map(|_| Heard::default()).collect();
    let start = Instant::now();
    let mut outcome = Ok(false);
    while matches!(outcome, Ok(false)) {
        let played = player.play(
            1.0,
            |_, _, _| Ok(true),
            |_, free| {
                outcome = client
                    .spin(free.min(Duration::from_millis(50)))
                    .into_iter()
                    .try_for_each(|incoming| {
                        let heard = &mut heard[incoming.subscription / 2];
                        match incoming.subscription % 2 {
                            0 => heard.chunks.push(ActionChunk::from_serialized_bytes(&incoming.data).map_err(text)?),
                            _ => heard.trajectories.push(JointTrajectory::from_serialized_bytes(&incoming.data).map_err(text)?),
                        }
                        Ok(())
                    })
                    .and_then(|()| enough(&heard));
                if start.elapsed() > PATIENCE && outcome == Ok(false) {
                    let counts: Vec<_> = heard.iter().map(|heard| (heard.chunks.len(), heard.trajectories.len())).collect();
                    outcome = Err(format!("Chunks and trajectories after {PATIENCE:?} of playing: {counts:?}"));
                }
                Ok(outcome == Ok(false))
            },
        );
        played.map_err(text)?;
    }
    outcome.map(|_| heard)
}

fn outputs(bag: &std::path::Path, node: &str) -> Checked<()> {
    let bag = BagReader::open(bag).map_err(text)?;
    let mut client = Client::new("wire_check").map_err(text)?;
    listen(&mut client, node)?;
    let player = player(&mut client, &bag, node)?;
    for (topic, type_name) in
        [("action_chunk", "pi0_tt/msg/ActionChunk"), ("joint_trajectory", "trajectory_msgs/msg/JointTrajectory")]
    {
        check_endpoint(&mut client, &format!("{node}/{topic}"), type_name, node)?;
    }
    let heard = play_until(&mut client, &player, 1, |heard| Ok(heard[0].chunks.len() >= 5 && heard[0].trajectories.len() >= 5))?;
    let mut last_index = None;
    // The trajectory of the last chunk may still be on its way.
    for chunk in &heard[0].chunks[..heard[0].chunks.len() - 1] {
        check_chunk(chunk, &bag)?;
        check_trajectory(&heard[0].trajectories, chunk)?;
        ensure(last_index.is_none_or(|last| chunk.chunk_index == last + 1), || {
            format!("Chunk {} follows chunk {last_index:?}", chunk.chunk_index)
        })?;
        last_index = Some(chunk.chunk_index);
    }
    Ok(())
}

/// One reliable, volatile publisher of the type, owned by the node.
fn check_endpoint(client: &mut Client, topic: &str, type_name: &str, node: &str) -> Checked<()> {
    let start = Instant::now();
    let publisher = loop {
        let mut publishers = client.node().get_publishers_info_by_topic(topic, false).map_err(text)?;
        let publisher = publishers.pop().filter(|_| publishers.is_empty()).ok_or(format!("{topic} has not one publisher"))?;
        // Which node an endpoint belongs to is told after the endpoint itself.
        if publisher.node_name != "_NODE_NAME_UNKNOWN_" || start.elapsed() > PATIENCE {
            break publisher;
        }
        client.spin(Duration::from_millis(20));
    };
    ensure(publisher.topic_type == type_name, || format!("{topic} has the type {}", publisher.topic_type))?;
    let owner = format!("{}/{}", publisher.node_namespace.trim_end_matches('/'), publisher.node_name);
    ensure(owner == node, || format!("{topic} is published by {owner}"))?;
    let qos = &publisher.qos_profile;
    let as_expected = qos.reliability == ReliabilityPolicy::Reliable && qos.durability == DurabilityPolicy::Volatile;
    ensure(as_expected, || format!("{topic} has the QoS {qos:?}"))
}

fn check_chunk(chunk: &ActionChunk, bag: &BagReader) -> Checked<()> {
    let wrong = |what: &str| format!("Chunk {}: {what}", chunk.chunk_index);
    let rows = chunk.horizon as usize;
    ensure(rows > 1 && chunk.period > 0.0, || wrong("no rows or no time between them"))?;
    ensure(chunk.joint_names.len() == 14, || wrong(&format!("{} joints", chunk.joint_names.len())))?;
    ensure(chunk.joint_names.first().map(String::as_str) == Some("left_waist"), || wrong("another order of the joints"))?;
    ensure(chunk.actions.len() == rows * 14, || wrong(&format!("{} actions for {rows} rows", chunk.actions.len())))?;
    ensure(chunk.model_actions.len() == rows * chunk.model_action_dim as usize, || wrong("model actions of another size"))?;
    ensure(chunk.actions.iter().all(|value| value.is_finite()), || wrong("actions that are no numbers"))?;
    ensure(chunk.backend == "reference", || wrong(&format!("backend {:?}", chunk.backend)))?;
    ensure(chunk.instruction == "Transfer the red cube to the other arm", || {
        wrong(&format!("instruction {:?}", chunk.instruction))
    })?;
    let names: Vec<_> = chunk.input_ages.iter().map(|age| age.name.as_str()).collect();
    ensure(names == ["base_0_rgb", "joint_states", "instruction"], || wrong(&format!("ages of {names:?}")))?;
    for age in &chunk.input_ages[..2] {
        ensure((0.0..1.0).contains(&age.age), || wrong(&format!("{} is {} s old", age.name, age.age)))?;
    }
    let stages = &chunk.stage_times;
    let sum = stages.observation + stages.vision + stages.prefix + stages.denoise_steps.iter().sum::<f64>();
    ensure(sum > 0.0 && stages.total >= sum, || wrong(&format!("stages of {sum} s in a total of {} s", stages.total)))?;
    let (planned, observed) = (seconds(&chunk.header.stamp), seconds(&chunk.observation_stamp));
    // Row 0 belongs to the control step of the observation, or to a later one when the robot held its pose.
    ensure(planned > observed - chunk.period && planned - observed < 10.0, || {
        wrong(&format!("planned {} s after the observation", planned - observed))
    })?;
    // The bag is of another day: its stamps must have been renewed, or the ages above could not hold.
    let (start, _) = bag.time_range().ok_or("The bag is empty")?;
    ensure((observed - start as f64 * 1e-9).abs() > 3600.0, || wrong("observed at the time of the recording"))
}

/// The trajectory that begins with the chunk's first row whose time had not passed: same joints, same values, row after row.
fn check_trajectory(trajectories: &[JointTrajectory], chunk: &ActionChunk) -> Checked<()> {
    let wrong = |what: &str| format!("Trajectory of chunk {}: {what}", chunk.chunk_index);
    let start = seconds(&chunk.header.stamp) + f64::from(chunk.delay_rows) * chunk.period;
    let of_chunk = |trajectory: &&JointTrajectory| (seconds(&trajectory.header.stamp) - start).abs() < 0.5 * chunk.period;
    let trajectory = trajectories.iter().find(of_chunk).ok_or_else(|| wrong("none begins at its time"))?;
    ensure(trajectory.joint_names == chunk.joint_names, || wrong("other joints"))?;
    let rows = (chunk.horizon - chunk.delay_rows) as usize;
    ensure(trajectory.points.len() == rows, || wrong(&format!("{} points for {rows} rows", trajectory.points.len())))?;
    for (row, point) in trajectory.points.iter().enumerate() {
        let time = f64::from(point.time_from_start.sec) + f64::from(point.time_from_start.nanosec) * 1e-9;
        ensure((time - (row + 1) as f64 * chunk.period).abs() < 1e-6, || wrong(&format!("row {row} at {time} s")))?;
        let actions = &chunk.actions[(row + chunk.delay_rows as usize) * 14..][..14];
        ensure(point.positions == actions, || wrong(&format!("row {row} has other positions than the chunk")))?;
    }
    Ok(())
}

fn seconds(stamp: &Time) -> f64 {
    f64::from(stamp.sec) + f64::from(stamp.nanosec) * 1e-9
}

fn restart(bag: &std::path::Path, node: &str) -> Checked<()> {
    let bag = BagReader::open(bag).map_err(text)?;
    let mut client = Client::new("wire_check").map_err(text)?;
    listen(&mut client, node)?;
    let player = player(&mut client, &bag, node)?;
    let mut before = None;
    play_until(&mut client, &player, 1, |heard| {
        let indices: Vec<_> = heard[0].chunks.iter().map(|chunk| chunk.chunk_index).collect();
        match before {
            None if indices.len() >= 3 => {
                println!("restart now");
                before = Some(indices.len());
                Ok(false)
            }
            None => Ok(false),
            Some(before) => {
                let again = indices[before..].iter().position(|&index| index == 0);
                Ok(again.is_some_and(|again| indices[before..][again..].starts_with(&[0, 1, 2])))
            }
        }
    })?;
    Ok(())
}

fn isolation(bag: &std::path::Path, node: &str, other: &str) -> Checked<()> {
    let bag = BagReader::open(bag).map_err(text)?;
    let mut client = Client::new("wire_check").map_err(text)?;
    listen(&mut client, node)?;
    listen(&mut client, other)?;
    let player = player(&mut client, &bag, node)?;
    check_endpoint(&mut client, &format!("{node}/action_chunk"), "pi0_tt/msg/ActionChunk", node)?;
    check_endpoint(&mut client, &format!("{other}/action_chunk"), "pi0_tt/msg/ActionChunk", other)?;
    let heard = play_until(&mut client, &player, 2, |heard| Ok(heard[0].chunks.len() >= 5))?;
    let others = heard[1].chunks.len() + heard[1].trajectories.len();
    ensure(others == 0, || format!("{other} published {others} messages without inputs"))
}
