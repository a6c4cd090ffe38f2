//! One observation from inputs that arrive on their own: newest image of every camera, joints at the time of the images.
//!
//! Newest wins: nobody waits for a sample, and an input that is late, lost, out of step or dated wrongly refuses the observation with a
//! reason. Payloads are whatever the caller received (messages, positions in a bag); they are never looked at.

use std::collections::BTreeMap;

use super::{
    AgeLimit, ClockWatch, NotUsable, Stamp,
    track::{Arrival, SPACING, StateAt, Track, Usable},
};

/// Name of the joint states among the inputs.
pub const JOINT_STATES: &str = "joint_states";

/// Which time is the stamp of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StampSource {
    /// `header.stamp`. A message without one is dropped.
    Header,
    /// The clock when the message arrives.
    Receive,
}

/// What holds for all inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    pub stamps: StampSource,
    /// Largest difference in seconds between the times at which the cameras took their images; `None`: any.
    pub max_skew: Option<f64>,
    /// Age of the newest joint states. Also the longest time over which joint states stand for those of another time.
    pub joint_age: AgeLimit,
}

/// What holds for one camera.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CameraRules {
    /// Age of the image, from the time at which it was taken.
    pub max_age: AgeLimit,
    /// Seconds from the stamp to the time at which the image was taken: negative for a driver that stamps images when it gets them.
    pub stamp_offset: f64,
}

#[derive(Debug)]
struct Camera<C> {
    name: String,
    rules: CameraRules,
    track: Track<C>,
}

/// The newest samples of cameras (`C`) and joint states (`J`).
#[derive(Debug)]
pub struct Synchronizer<C, J> {
    /// May be changed at any time.
    pub rules: Rules,
    clock: ClockWatch,
    cameras: Vec<Camera<C>>,
    joints: Track<J>,
}

/// Samples that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Aligned<'a, C, J> {
    /// Image and age in seconds of each camera, in the order of [`Synchronizer::new`].
    pub cameras: Vec<(&'a C, f64)>,
    /// Seconds between the first and the last time at which a camera took its image.
    pub skew: f64,
    /// The joints in the middle of those times, so that no image is further away from them than half the skew.
    pub joints: StateAt<&'a J>,
    /// Age of `joints` in seconds: that of the one sample which is held, or of the time between two.
    pub joint_age: f64,
}

impl<C, J> Synchronizer<C, J> {
    /// For cameras of these names.
    pub fn new(rules: Rules, cameras: impl IntoIterator<Item = (String, CameraRules)>) -> Self {
        let cameras = cameras.into_iter().map(|(name, rules)| Camera { name, rules, track: Track::default() }).collect();
        Self { rules, clock: ClockWatch::default(), cameras, joints: Track::default() }
    }

    /// The rules of each camera, to be changed.
    pub fn camera_rules(&mut self) -> impl Iterator<Item = &mut CameraRules> {
        self.cameras.iter_mut().map(|camera| &mut camera.rules)
    }

    /// Takes an image that arrives at `now`; `header` is `None` when the message has no stamp. `camera` counts those of
    /// [`Synchronizer::new`], and panics beyond them. The clock must be read after the sample before has been taken: it is watched here.
    pub fn push_image(&mut self, camera: usize, header: Option<Stamp>, now: Stamp, payload: C) -> Arrival<C> {
        self.observe_clock(now);
        let stamp = self.stamp(header, now);
        self.cameras[camera].track.replace(stamp, now, payload)
    }

    /// Takes joint states that arrive at `now`, as [`Synchronizer::push_image`] does an image.
    pub fn push_joints(&mut self, header: Option<Stamp>, now: Stamp, payload: J) -> Arrival<J> {
        self.observe_clock(now);
        let (stamp, span) = (self.stamp(header, now), self.history());
        self.joints.append(stamp, now, payload, span)
    }

    /// Looks at the clock, as every arrival does: a jump drops the samples of the time before it, and nothing else.
    pub fn observe_clock(&mut self, now: Stamp) {
        if let Some(jump) = self.clock.observe(now) {
            self.cameras.iter_mut().for_each(|camera| camera.track.forget(&jump));
            self.joints.forget(&jump);
        }
    }

    /// The newest image of every camera and the joints of their time; or every input that keeps them from being used at `now`, and why.
    pub fn align(&mut self, now: Stamp) -> Result<Aligned<'_, C, J>, Vec<(String, NotUsable)>> {
        if self.look(now).is_ok() {
            self.cameras.iter_mut().for_each(|camera| camera.track.mark_used());
            self.joints.mark_used();
        }
        self.look(now)
    }

    /// Age in seconds of the newest sample of every camera and then of the joint states, or what keeps it from being used at `now`.
    pub fn check(&self, now: Stamp) -> Vec<Result<f64, NotUsable>> {
        let mut problems: BTreeMap<String, NotUsable> = self.look(now).err().into_iter().flatten().collect();
        let cameras = self.cameras.iter().map(|camera| (camera.name.as_str(), camera.newest(now).map(|image| image.age)));
        let inputs = cameras.chain([(JOINT_STATES, self.joints(now).map(|joints| joints.age))]);
        inputs.map(|(name, age)| problems.remove(name).map_or(age, Err)).collect()
    }

    /// The newest joint states and their stamp, if they may be used at `now`.
    pub fn newest_joints(&self, now: Stamp) -> Result<(&J, Stamp), NotUsable> {
        self.joints(now).map(|joints| (joints.payload, joints.time))
    }

    fn joints(&self, now: Stamp) -> Result<Usable<'_, J>, NotUsable> {
        self.joints.newest(0.0, self.rules.joint_age, now)
    }

    fn look(&self, now: Stamp) -> Result<Aligned<'_, C, J>, Vec<(String, NotUsable)>> {
        let mut problems = Vec::new();
        let mut images: Vec<(&str, Usable<'_, C>)> = Vec::new();
        for camera in &self.cameras {
            match camera.newest(now) {
                Ok(image) => images.push((&camera.name, image)),
                Err(problem) => problems.push((camera.name.clone(), problem)),
            }
        }
        if let Err(problem) = self.joints(now) {
            problems.push((JOINT_STATES.to_owned(), problem));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let (time, skew) = self.time_of(&images, now).map_err(|problem| vec![problem])?;
        // Thinned samples are a little further apart than those that arrived.
        let limit = self.rules.joint_age.seconds().max(SPACING);
        let Some((joints, joint_time)) = self.joints.at(time, limit) else {
            let apart = NotUsable::Apart { ago: now.seconds_since(time), limit };
            return Err(vec![(JOINT_STATES.to_owned(), apart)]);
        };
        let cameras = images.into_iter().map(|(_, image)| (image.payload, image.age)).collect();
        Ok(Aligned { cameras, skew, joints, joint_age: now.seconds_since(joint_time) })
    }

    /// The middle between the first and the last time at which a camera took its image, and the seconds between them; or the camera that
    /// is too far behind.
    fn time_of(&self, images: &[(&str, Usable<'_, C>)], now: Stamp) -> Result<(Stamp, f64), (String, NotUsable)> {
        let time = |image: &&(&str, Usable<'_, C>)| image.1.time;
        let (Some(oldest), Some(newest)) = (images.iter().min_by_key(time), images.iter().max_by_key(time)) else {
            // A policy whose cameras are all declared absent.
            return Ok((now, 0.0));
        };
        let skew = newest.1.time.seconds_since(oldest.1.time);
        match self.rules.max_skew {
            Some(limit) if skew > limit => {
                Err((oldest.0.to_owned(), NotUsable::Skewed { skew, newest: newest.0.to_owned(), limit }))
            }
            _ => Ok((oldest.1.time.after(skew / 2.0), skew)),
        }
    }

    fn stamp(&self, header: Option<Stamp>, now: Stamp) -> Option<Stamp> {
        match self.rules.stamps {
            StampSource::Header => header,
            StampSource::Receive => Some(now),
        }
    }

    /// Seconds of joint states that an observation may need.
    fn history(&self) -> f64 {
        let oldest = self.cameras.iter().map(|camera| camera.rules.max_age.seconds()).fold(0.0, f64::max);
        oldest + self.rules.joint_age.seconds()
    }
}

impl<C> Camera<C> {
    fn newest(&self, now: Stamp) -> Result<Usable<'_, C>, NotUsable> {
        self.track.newest(self.rules.stamp_offset, self.rules.max_age, now)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Verdict, track::StateAt::*},
        *,
    };

    // In milliseconds.
    const IMAGE_AGE: f64 = 200.0;
    const JOINT_AGE: f64 = 100.0;

    fn at(milliseconds: i64) -> Stamp {
        Stamp::from_nanoseconds(milliseconds * 1_000_000)
    }

    /// Cameras `left` and `right`, and joint states, whose payloads are their stamps in milliseconds.
    struct Robot(Synchronizer<i64, i64>);

    impl Robot {
        fn new() -> Self {
            let rules = Rules { stamps: StampSource::Header, max_skew: None, joint_age: AgeLimit::from_milliseconds(JOINT_AGE) };
            let camera = CameraRules { max_age: AgeLimit::from_milliseconds(IMAGE_AGE), stamp_offset: 0.0 };
            Self(Synchronizer::new(rules, ["left", "right"].map(|name| (name.to_owned(), camera))))
        }

        fn with(edit: impl FnOnce(&mut Rules)) -> Self {
            let mut robot = Self::new();
            edit(&mut robot.0.rules);
            robot
        }

        /// Samples of these stamps arrive at `now`.
        fn receive(
            &mut self,
            now: i64,
            left: impl Into<Option<i64>>,
            right: impl Into<Option<i64>>,
            joints: impl Into<Option<i64>>,
        ) {
            for (camera, stamp) in [(0, left.into()), (1, right.into())] {
                if let Some(stamp) = stamp {
                    let _ = self.0.push_image(camera, Some(at(stamp)), at(now), stamp);
                }
            }
            if let Some(stamp) = joints.into() {
                let _ = self.0.push_joints(Some(at(stamp)), at(now), stamp);
            }
        }

        /// Everything is received every 20 ms, 5 ms after its stamp.
        fn run(&mut self, times: std::ops::RangeInclusive<i64>) {
            for now in times.step_by(20) {
                self.receive(now, now - 5, now - 5, now - 5);
            }
        }

        /// Stamps of the images and the joints, or the problems.
        fn align(&mut self, now: i64) -> Result<(Vec<i64>, StateAt<i64>), String> {
            match self.0.align(at(now)) {
                Ok(aligned) => {
                    Ok((aligned.cameras.iter().map(|&(&stamp, _)| stamp).collect(), aligned.joints.map(|&stamp| stamp)))
                }
                Err(problems) => {
                    let problems: Vec<_> = problems.into_iter().map(|(input, problem)| format!("{input}: {problem}")).collect();
                    Err(problems.join("; "))
                }
            }
        }

        fn ages(&mut self, now: i64) -> Vec<i64> {
            let aligned = self.0.align(at(now)).unwrap();
            let ages = aligned.cameras.iter().map(|&(_, age)| age).chain([aligned.joint_age]);
            ages.map(|age| (age * 1e3).round() as i64).collect()
        }
    }

    #[test]
    fn the_newest_sample_of_every_input_is_taken() {
        let mut robot = Robot::new();
        robot.receive(1000, 980, 990, 995);
        robot.receive(1020, 1000, None, 1015);
        assert_eq!(robot.align(1025), Ok((vec![1000, 990], Held(995))));
    }

    #[test]
    fn inputs_that_were_never_received_are_all_named() {
        let mut robot = Robot::new();
        robot.receive(1000, None, 990, None);
        assert_eq!(robot.align(1000).unwrap_err(), "left: nothing was received yet; joint_states: nothing was received yet");
    }

    #[test]
    fn a_lost_camera_refuses_the_observation_after_its_age_limit_and_its_return_gives_the_next() {
        let mut robot = Robot::new();
        robot.run(1000..=2000);
        for now in (2020..=2500).step_by(20) {
            robot.receive(now, now - 5, None, now - 5);
            assert_eq!(robot.align(now).is_ok(), now <= 2195, "{now}");
        }
        assert_eq!(robot.align(2500).unwrap_err(), "right: the newest sample is 505 ms old, the limit is 200 ms");
        robot.receive(2510, None, 2505, None);
        assert!(robot.align(2510).is_ok());
    }

    #[test]
    fn lost_joint_states_refuse_the_observation_after_their_age_limit() {
        let mut robot = Robot::new();
        robot.run(1000..=2000);
        robot.receive(2120, 2115, 2115, None);
        assert_eq!(robot.align(2120).unwrap_err(), "joint_states: the newest sample is 125 ms old, the limit is 100 ms");
    }

    #[test]
    fn a_policy_without_cameras_takes_the_newest_joints() {
        let mut robot = Synchronizer::<(), i64>::new(Robot::new().0.rules, []);
        let _ = robot.push_joints(Some(at(990)), at(995), 990);
        let aligned = robot.align(at(1000)).unwrap();
        assert_eq!((aligned.joints, aligned.skew), (Held(&990), 0.0));
    }

    #[test]
    fn the_joints_are_those_of_the_middle_of_the_images() {
        let mut robot = Robot::new();
        for stamp in [900, 920, 940, 960, 980] {
            robot.receive(stamp, None, None, stamp);
        }
        robot.receive(985, 930, 980, None);
        assert_eq!(robot.align(985), Ok((vec![930, 980], Between { before: 940, after: 960, weight: 0.75 })));
        assert_eq!(robot.ages(985), [55, 5, 30]);
    }

    #[test]
    fn the_newest_joints_are_held_when_none_are_later_than_the_images() {
        let mut robot = Robot::new();
        robot.receive(1000, None, None, 990);
        robot.receive(1010, 1000, 1000, None);
        assert_eq!(robot.align(1010), Ok((vec![1000, 1000], Held(990))));
        assert_eq!(robot.ages(1010), [10, 10, 20]);
    }

    #[test]
    fn images_of_before_the_first_joint_states_wait_for_newer_ones() {
        let mut robot = Robot::new();
        robot.receive(1000, 895, 895, 1000);
        assert_eq!(
            robot.align(1000).unwrap_err(),
            "joint_states: no sample within 100 ms of the images, which were taken 105 ms ago"
        );
        robot.receive(1020, 915, 915, None);
        assert_eq!(robot.align(1020), Ok((vec![915, 915], Held(1000))));
    }

    #[test]
    fn joint_states_are_kept_as_long_as_the_oldest_image_may_need_them() {
        let mut robot = Robot::new();
        robot.0.camera_rules().for_each(|rules| rules.max_age = AgeLimit::from_milliseconds(1000.0));
        robot.receive(1000, 1000, 1000, None);
        for now in 950..2000 {
            robot.receive(now, None, None, now);
        }
        let aligned = robot.align(1999).unwrap();
        assert!(matches!(aligned.1, Between { before: 995..1000, after: 1001..=1005, .. } | Held(1000)), "{aligned:?}");
    }

    #[test]
    fn thinned_joint_states_count_where_the_limit_is_tighter_than_they_are() {
        let mut robot = Robot::with(|rules| rules.joint_age = AgeLimit::from_milliseconds(1.0));
        for now in 950..=1000 {
            robot.receive(now, None, None, now);
        }
        for image in 960..980 {
            robot.receive(1000, image, image, None);
            assert!(robot.align(1000).is_ok(), "{image}");
        }
    }

    #[test]
    fn cameras_that_are_out_of_step_are_named_with_their_skew() {
        let mut robot = Robot::with(|rules| rules.max_skew = Some(0.05));
        robot.receive(1000, 940, 990, 990);
        assert_eq!(robot.0.align(at(1000)).map(|aligned| aligned.skew), Ok(0.05));
        robot.receive(1005, None, 1001, None);
        assert_eq!(
            robot.align(1005).unwrap_err(),
            "left: its image was taken 61 ms before that of right, the limit is 50 ms. Compare rates, stamps and stamp_offset_ms of both"
        );
        let check = robot.0.check(at(1005));
        assert!(matches!(check[..], [Err(NotUsable::Skewed { .. }), Ok(_), Ok(_)]), "{check:?}");
        robot.receive(1010, 1002, None, None);
        assert!(robot.align(1010).is_ok());
    }

    #[test]
    fn the_newest_joint_states_are_there_for_the_controller_as_long_as_they_are_fresh() {
        let mut robot = Robot::new();
        robot.receive(1000, None, None, 990);
        assert_eq!(robot.0.newest_joints(at(1090)), Ok((&990, at(990))));
        assert_eq!(robot.0.newest_joints(at(1091)), Err(NotUsable::Stale { age: 0.101, limit: 0.1 }));
    }

    #[test]
    fn every_input_is_told_its_age_or_its_own_problem() {
        let mut robot = Robot::new();
        robot.receive(1000, 900, None, 990);
        assert_eq!(robot.0.check(at(1000)), [Ok(0.1), Err(NotUsable::Missing), Ok(0.01)]);
    }

    #[test]
    fn without_a_limit_any_skew_is_told_and_taken() {
        let mut robot = Robot::new();
        robot.receive(1000, 810, 990, 990);
        assert_eq!(robot.0.align(at(1000)).map(|aligned| aligned.skew), Ok(0.18));
    }

    #[test]
    fn a_stamp_offset_moves_the_time_of_an_image_in_age_skew_and_joints() {
        let mut robot = Robot::new();
        robot.0.camera_rules().next().unwrap().stamp_offset = -0.11;
        for stamp in [860, 880, 900, 920, 940, 960, 980, 1000] {
            robot.receive(stamp, None, None, stamp);
        }
        robot.receive(1000, 990, 990, None);
        assert_eq!(robot.ages(1000), [120, 10, 65]);
        let aligned = robot.0.align(at(1000)).unwrap();
        assert_eq!((aligned.skew, aligned.joints), (0.11, Between { before: &920, after: &940, weight: 0.75 }));
        assert!(robot.align(1080).is_ok());
        assert_eq!(robot.align(1081).unwrap_err(), "left: the newest sample is 201 ms old, the limit is 200 ms");
    }

    #[test]
    fn a_sample_from_the_future_is_refused_until_its_time_has_come() {
        let mut robot = Robot::new();
        robot.receive(1000, 1051, 1000, 1000);
        assert!(robot.align(1000).unwrap_err().starts_with("left: the newest sample is stamped 51 ms in the future"));
        assert!(robot.align(1001).is_ok());
    }

    #[test]
    fn a_message_without_a_stamp_is_dropped_unless_the_time_of_receipt_counts() {
        let mut robot = Robot::new();
        robot.receive(1000, 990, 990, 990);
        let arrival = robot.0.push_image(0, None, at(1010), 1010);
        assert_eq!((arrival.verdict, arrival.dropped), (Verdict::Unstamped, Some(1010)));
        assert_eq!(robot.align(1010), Ok((vec![990, 990], Held(990))));

        let mut robot = Robot::with(|rules| rules.stamps = StampSource::Receive);
        robot.receive(1000, 3, 4, 5);
        assert!(matches!(robot.0.push_image(0, None, at(1010), 6).verdict, Verdict::Newest { .. }));
        assert_eq!(robot.align(1010), Ok((vec![6, 4], Held(5))));
        assert_eq!(robot.ages(1010), [0, 10, 10]);
    }

    #[test]
    fn an_input_that_sends_only_messages_without_a_stamp_is_told_so() {
        let mut robot = Robot::new();
        robot.receive(1000, None, 990, 990);
        let _ = robot.0.push_image(0, None, at(1000), 0);
        assert!(robot.align(1000).unwrap_err().starts_with("left: the newest sample has no stamp"));
    }

    #[test]
    fn after_a_jump_back_nothing_is_used_until_every_input_is_of_the_new_time() {
        let mut robot = Robot::new();
        robot.run(19_000..=20_000);
        assert!(robot.align(20_000).is_ok());
        robot.receive(10_000, 9_995, None, 9_995);
        assert_eq!(robot.align(10_000).unwrap_err(), "right: nothing was received yet");
        // Its image would be fresh at this time of the loop.
        assert_eq!(robot.align(10_020).unwrap_err(), "right: nothing was received yet");
        robot.receive(10_020, None, 10_015, None);
        assert_eq!(robot.align(10_020), Ok((vec![9_995, 10_015], Held(9_995))));
    }

    #[test]
    fn a_jump_forward_makes_nothing_of_the_old_time_usable_however_old_it_may_be() {
        let mut robot = Robot::new();
        robot.0.camera_rules().for_each(|rules| rules.max_age = AgeLimit::from_milliseconds(60_000.0));
        robot.run(19_000..=20_000);
        robot.receive(30_000, 29_995, None, 29_995);
        assert_eq!(robot.align(30_000).unwrap_err(), "right: nothing was received yet");
    }

    #[test]
    fn samples_that_come_before_the_clock_of_their_time_survive_its_jump() {
        for new in [10_000, 30_000] {
            let mut robot = Robot::new();
            robot.run(19_000..=20_000);
            robot.receive(20_010, new - 5, new - 5, new - 5);
            robot.0.observe_clock(at(new));
            assert_eq!(robot.align(new), Ok((vec![new - 5, new - 5], Held(new - 5))), "to {new}");
        }
    }

    #[test]
    fn a_bag_that_loops_a_hundred_times_resumes_with_the_first_samples_of_every_loop() {
        let mut robot = Robot::new();
        for loops in 0..100 {
            robot.run(10_000..=10_300);
            assert!(robot.align(10_300).is_ok(), "loop {loops}");
            robot.0.observe_clock(at(10_000));
            assert!(robot.align(10_000).is_err(), "loop {loops}");
        }
    }

    #[test]
    fn simulated_time_that_has_not_begun_keeps_what_was_received_for_it() {
        let mut robot = Robot::new();
        robot.receive(0, 5_000, 5_000, 5_000);
        assert!(robot.align(0).is_err());
        robot.0.observe_clock(at(5_010));
        assert!(robot.align(5_010).is_ok());
    }
}
