//! A camera as a machine: whose clock it is, where it begins, what it tells.

use video::describe::Kind;
use video::fragment::Follows;

use super::*;

const NOW: UnixMs = UnixMs(1_790_000_000_000);

fn sound(timescale: u32) -> Description {
    Description {
        id: 1,
        kind: Kind::Alaw,
        private: Vec::new(),
        width: 0,
        height: 0,
        rate: 8000,
        channels: 1,
        timescale,
    }
}

fn camera(tracks: usize) -> Camera {
    let mut camera = Camera::new(7, tracks);
    (0..tracks).for_each(|place| {
        let description = Description { id: place as u32 + 1, ..sound(8000) };
        camera.handle_description(place, description, &mut Vec::new()).unwrap();
    });
    camera
}

fn ntp(ms: i64) -> u64 {
    let seconds = (ms / 1000 + NTP_TO_UNIX_S) as u64 & 0xffff_ffff;
    seconds << 32 | (((ms % 1000) as u64) << 32).div_ceil(1000)
}

fn came(track: usize, n: i64) -> Came {
    Came { track, key: true, pts: 1_000_000 + n * 160, duration: Some(160), lost: 0, data: vec![1; 160] }
}

fn run(camera: &mut Camera, frames: std::ops::Range<i64>, cuts: &mut Vec<Cut>) {
    for n in frames {
        camera.handle_frame(came(0, n), UnixMs(NOW.0 + n as u64 * 20), cuts).unwrap();
    }
}

fn times(cuts: &[Cut]) -> Vec<(i64, Clock, Follows)> {
    let time = |cut: &Cut| cut.fragment.producer_time.0 as i64 - NOW.0 as i64;
    cuts.iter().map(|cut| (time(cut), cut.fragment.clock, cut.fragment.follows)).collect()
}

#[test]
fn ntp_s_seconds_go_on_after_2036() {
    for ms in
        [0, 1_577_836_800_000, 1_790_000_000_123, 2_085_978_495_999, 2_085_978_496_000, 4_000_000_000_001]
    {
        assert_eq!(ntp_ms(ntp(ms)), ms);
    }
}

#[test]
fn times_are_the_camera_s_where_it_tells_them_and_this_machine_s_where_not() {
    let mut cuts = Vec::new();
    let mut told = camera(1);
    run(&mut told, 0..50, &mut cuts);
    assert!(cuts.is_empty(), "it waits for what the camera says");
    told.handle_report(0, 1_000_000 + 40 * 160, ntp(NOW.0 as i64 + 800 - 5000));
    run(&mut told, 50..200, &mut cuts);
    told.finish(&mut cuts).unwrap();
    assert_eq!(times(&cuts)[0], (-5000, Clock::Producer, Follows::Run));
    assert_eq!(cuts.iter().map(|cut| cut.fragment.frames.len()).sum::<usize>(), 200);
    assert_eq!(
        told.poll_told().as_deref(),
        Some("times are of the camera's clock, 5000 ms behind this machine's")
    );
    let (mut cuts, mut silent) = (Vec::new(), camera(1));
    // A clock that was never set is none.
    silent.handle_report(0, 1_000_000, ntp(86_400_000));
    run(&mut silent, 0..400, &mut cuts);
    silent.finish(&mut cuts).unwrap();
    assert_eq!(times(&cuts)[0], (0, Clock::Arrival, Follows::Run));
    assert!(silent.poll_told().unwrap().contains("this machine's clock"));
    assert_eq!(cuts.iter().map(|cut| cut.fragment.frames.len()).sum::<usize>(), 400);
}

#[test]
fn a_camera_whose_clock_is_set_tells_a_gap_and_one_that_drifts_does_not() {
    let (mut cuts, mut camera) = (Vec::new(), camera(1));
    camera.handle_report(0, 1_000_000, ntp(NOW.0 as i64));
    run(&mut camera, 0..100, &mut cuts);
    camera.handle_report(0, 1_000_000 + 100 * 160, ntp(NOW.0 as i64 + 2000 + 300));
    run(&mut camera, 100..200, &mut cuts);
    camera.handle_report(0, 1_000_000 + 200 * 160, ntp(NOW.0 as i64 + 4000 + 60_000));
    run(&mut camera, 200..300, &mut cuts);
    camera.finish(&mut cuts).unwrap();
    let gaps: Vec<_> = times(&cuts).into_iter().filter(|cut| cut.2 != Follows::Previous).collect();
    assert_eq!(gaps, [(0, Clock::Producer, Follows::Run), (64_000, Clock::Producer, Follows::Gap(60_000))]);
}

#[test]
fn each_track_is_where_its_own_report_says() {
    let (mut cuts, mut camera) = (Vec::new(), camera(2));
    camera.handle_report(0, 1_000_000, ntp(NOW.0 as i64));
    // Its first packet is of half a second before.
    camera.handle_report(1, 1_000_000, ntp(NOW.0 as i64 - 500));
    for n in 0..100 {
        camera.handle_frame(came(0, n), NOW, &mut cuts).unwrap();
        camera.handle_frame(came(1, n), NOW, &mut cuts).unwrap();
    }
    camera.finish(&mut cuts).unwrap();
    let first = |track: u8| cuts[0].fragment.frames.iter().find(|frame| frame.track == track).unwrap().dts;
    assert_eq!(first(0) - first(1), 4000);
}

#[test]
fn it_begins_at_a_key_frame_of_what_is_described_and_another_description_begins_a_fragment() {
    let (mut cuts, mut camera) = (Vec::new(), Camera::new(7, 1));
    run(&mut camera, 0..10, &mut cuts);
    camera.handle_description(0, sound(8000), &mut cuts).unwrap();
    camera.handle_frame(Came { key: false, ..came(0, 10) }, NOW, &mut cuts).unwrap();
    run(&mut camera, 11..20, &mut cuts);
    camera.handle_description(0, Description { rate: 16_000, ..sound(8000) }, &mut cuts).unwrap();
    run(&mut camera, 20..30, &mut cuts);
    camera.handle_description(0, sound(8000), &mut cuts).unwrap();
    run(&mut camera, 30..40, &mut cuts);
    camera.finish(&mut cuts).unwrap();
    assert_eq!(cuts.iter().map(|cut| cut.fragment.frames.len()).collect::<Vec<_>>(), [9, 10, 10]);
    assert_ne!(cuts[0].fragment.config, cuts[1].fragment.config);
    assert_eq!(cuts[0].fragment.config, cuts[2].fragment.config);
    assert!(cuts[1..].iter().all(|cut| cut.fragment.follows == Follows::Previous));
}

/// Reaches `WAITING_MAX` of agent/src/source/video/rtsp/camera.rs.
#[test]
fn lost_packets_are_a_gap_and_told_and_what_waits_is_bounded() {
    let (mut cuts, mut camera) = (Vec::new(), camera(1));
    // What was lost before its first packet is missing nowhere.
    camera.handle_frame(Came { lost: 1, ..came(0, 0) }, NOW, &mut cuts).unwrap();
    run(&mut camera, 1..20, &mut cuts);
    assert!(cuts.is_empty() && camera.poll_told().is_none());
    camera.handle_frame(Came { lost: 3, ..came(0, 21) }, NOW, &mut cuts).unwrap();
    camera.finish(&mut cuts).unwrap();
    assert_eq!(times(&cuts)[1].2, Follows::Gap(20));
    let told: Vec<_> = std::iter::from_fn(|| camera.poll_told()).collect();
    assert!(told[1].contains("3 packets were lost"), "{told:?}");
    let (mut cuts, mut frozen) = (Vec::new(), self::camera(1));
    for n in 1..5000 {
        frozen.handle_frame(came(0, 0), NOW, &mut cuts).unwrap();
        match &frozen.state {
            State::Waiting { held, .. } => assert!(held.len() == n && n < WAITING_MAX),
            _ => assert!(n >= WAITING_MAX),
        }
    }
    assert!(matches!(frozen.state, State::Going { .. }));
}
