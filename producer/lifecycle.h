// What happened between two answers of the engine: agents that came and went, tasks that were
// assigned, completed or failed, and what the scheduler's and the recovery's counters show.
//
//     lifecycle.inherit(poll, topic, data);          // the first welcome: the broker's last state
//     lifecycle.keep_unlisted(poll, topic, data);    // before a list that was cut off is published
//     for (const auto& event : lifecycle.take(poll, topic, data)) { publish it }
//
// Watches the data of agent.status, scheduler.metrics and recovery.status, as the mappers make
// them; common/EVENTS.md says which change is which event. An event is told where two answers show
// it, and nothing is guessed: the first answer is what the next is compared with, a counter that
// fell is a new beginning, and an agent that a cut list lacks has not stopped. Does not know that
// a poll failed: the next good answer is compared with the last one. Pure; one base a poll is kept.
#pragma once

#include <array>
#include <boost/json/object.hpp>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace sigmacast::producer {

struct LifecycleEvent {
    std::string_view topic;  // One of kLifecycleTopics.
    boost::json::object data;
};

inline constexpr std::array<std::string_view, 13> kLifecycleTopics{"agent.started",
                                                                   "agent.stopped",
                                                                   "agent.restarted",
                                                                   "agent.task_assigned",
                                                                   "agent.task_completed",
                                                                   "agent.task_failed",
                                                                   "agent.recovery_started",
                                                                   "agent.recovery_success",
                                                                   "agent.recovery_failed",
                                                                   "agent.health_check",
                                                                   "task.queued",
                                                                   "task.dispatched",
                                                                   "dead_letter.queued"};

class Lifecycle {
 public:
    /// The state from before this start. Where a first answer was quicker, the two are compared
    /// now; once a second one has said something else, too much is unknown and nothing is told.
    std::vector<LifecycleEvent> inherit(const std::string& poll, std::string_view topic,
                                        const boost::json::object& data);
    /// Puts the agents that a list lacks into it, as they were last known, where the list was cut
    /// off (`total_agents` is above what it holds).
    void keep_unlisted(const std::string& poll, std::string_view topic,
                       boost::json::object& data) const;
    /// What a good answer shows; it is the base of the next.
    std::vector<LifecycleEvent> take(const std::string& poll, std::string_view topic,
                                     const boost::json::object& data);

 private:
    struct Base {
        std::string_view topic;
        boost::json::object data;
        bool first = false;  // Of this start, and nothing else has been said since.
    };

    [[nodiscard]] std::vector<LifecycleEvent> compare(std::string_view topic,
                                                      const boost::json::object& before,
                                                      const boost::json::object& after) const;
    [[nodiscard]] bool agents_have(std::string_view member) const;

    std::map<std::string, Base> bases_;  // By poll; bounded by their number.
};

}  // namespace sigmacast::producer
