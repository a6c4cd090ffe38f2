//! Lists the topics that it sees after one second.

fn main() -> Result<(), r2r::Error> {
    let context = r2r::Context::create()?;
    let mut node = r2r::Node::create(context, "topic_list", "")?;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(1);
    while std::time::Instant::now() < until {
        node.spin_once(std::time::Duration::from_millis(100));
    }
    let topics: std::collections::BTreeMap<_, _> = node.get_topic_names_and_types()?.into_iter().collect();
    for (name, types) in topics {
        println!("{name} {}", types.join(" "));
    }
    Ok(())
}
