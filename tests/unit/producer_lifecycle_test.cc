#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "producer/lifecycle.h"

namespace sigmacast::producer {
namespace {

namespace json = boost::json;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// agent.status as the mapper makes it: the agents' entries by id, `total` where the engine has
/// more.
json::object agents(const char* entries, int total = 0) {
    json::object list = json::parse(entries).as_object();
    const int listed = static_cast<int>(list.size());
    return {{"agents", list}, {"total_agents", std::max(total, listed)}};
}

json::object object(const char* text) {
    return json::parse(text).as_object();
}

class LifecycleTest : public testing::Test {
 protected:
    /// The events of an answer, as "topic {data}".
    std::vector<std::string> list(const json::object& data) {
        return told("a", "agent.status", data);
    }
    std::vector<std::string> scheduler(const char* data) {
        return told("s", "scheduler.metrics", object(data));
    }
    std::vector<std::string> recovery(const char* data) {
        return told("r", "recovery.status", object(data));
    }
    std::vector<std::string> told(const std::string& poll, const char* topic,
                                  const json::object& data) {
        return texts(lifecycle_.take(poll, topic, data));
    }
    static std::vector<std::string> texts(const std::vector<LifecycleEvent>& events) {
        std::vector<std::string> out;
        for (const LifecycleEvent& event : events) {
            EXPECT_NE(kLifecycleTopics.end(),
                      std::find(kLifecycleTopics.begin(), kLifecycleTopics.end(), event.topic));
            out.push_back(std::string(event.topic) + " " + json::serialize(event.data));
        }
        return out;
    }

    Lifecycle lifecycle_;
};

TEST_F(LifecycleTest, TheFirstAnswerIsWhatTheNextIsComparedWithAndTellsNothing) {
    EXPECT_THAT(list(agents(R"({"a":{"status":"busy","current_task_id":"t1"}})")), IsEmpty());
    EXPECT_THAT(scheduler(R"({"tasks_scheduled":5,"tasks_dispatched":5})"), IsEmpty());
    EXPECT_THAT(recovery(R"({"total_restarts":5,"dead_letter_queue_size":5,
                             "health_scores":{"a":1}})"),
                IsEmpty());
}

TEST_F(LifecycleTest, TheSameAnswerAgainTellsNothing) {
    const auto data = agents(R"({"a":{"status":"busy","current_task_id":"t1","task_status":"failed",
                                      "tasks_completed":3,"timestamp":1}})");
    list(data);
    EXPECT_THAT(list(data), IsEmpty());
    for (int i = 0; i < 2; ++i) {
        EXPECT_THAT(recovery(R"({"total_restarts":5,"agents_failed":1,"health_scores":{"a":1}})"),
                    IsEmpty());
    }
}

TEST_F(LifecycleTest, AnAgentThatAppearsHasStartedAndOneThatIsGoneHasStopped) {
    list(agents(R"({"a":{"codename":"A","status":"idle"}})"));
    EXPECT_THAT(list(agents(R"({"b":{"codename":"B","status":"idle"}})")),
                ElementsAre(R"(agent.started {"agent_id":"b","codename":"B","status":"idle"})",
                            R"(agent.stopped {"agent_id":"a","codename":"A","status":"idle"})"));
}

TEST_F(LifecycleTest, AnAgentThatGoesOfflineHasStoppedAndStartsWhenItIsBack) {
    const auto idle = agents(R"({"a":{"status":"idle"}})");
    const auto offline = agents(R"({"a":{"status":"offline"}})");
    list(idle);
    EXPECT_THAT(list(offline), ElementsAre(R"(agent.stopped {"agent_id":"a","status":"offline"})"));
    EXPECT_THAT(list(agents("{}")), IsEmpty()) << "it does not stop twice";
    EXPECT_THAT(list(offline), IsEmpty()) << "it has not started";
    EXPECT_THAT(list(idle), ElementsAre(R"(agent.started {"agent_id":"a","status":"idle"})"));
}

TEST_F(LifecycleTest, AListThatWasCutOffInventsNoStopAndTheNextWholeOneNoStart) {
    const auto whole = agents(R"({"a":{"status":"idle"},"b":{"status":"idle"}})");
    list(whole);
    auto cut = agents(R"({"a":{"status":"idle"}})", 2);
    EXPECT_THAT(list(cut), IsEmpty());
    EXPECT_THAT(list(whole), IsEmpty());
    EXPECT_THAT(list(agents(R"({"a":{"status":"idle"}})")),
                ElementsAre(R"(agent.stopped {"agent_id":"b","status":"idle"})"));
}

TEST_F(LifecycleTest, WhatACutListLacksIsKeptAsItWasLastKnown) {
    list(agents(R"({"a":{"status":"idle","timestamp":1},"b":{"status":"busy","timestamp":1}})"));
    auto cut = agents(R"({"a":{"status":"idle","timestamp":2}})", 2);
    lifecycle_.keep_unlisted("a", "agent.status", cut);
    EXPECT_EQ(json::parse(R"({"agents":{"a":{"status":"idle","timestamp":2},
                  "b":{"status":"busy","timestamp":1}},"total_agents":2,"active_agents":1,
                  "idle_agents":1,"error_agents":0})"),
              json::value(cut));
    auto whole = agents(R"({"a":{"status":"idle"}})");
    lifecycle_.keep_unlisted("a", "agent.status", whole);
    EXPECT_EQ(1u, whole.at("agents").as_object().size());
}

TEST_F(LifecycleTest, ATaskIsAssignedWhenAnAgentNamesAnotherOne) {
    list(agents(R"({"a":{"status":"idle"}})"));
    EXPECT_THAT(
        list(agents(R"({"a":{"status":"busy","current_task_id":"t1","task_type":"compress"}})")),
        ElementsAre(
            R"(agent.task_assigned {"agent_id":"a","status":"busy","task_id":"t1","task_type":"compress"})"));
    EXPECT_THAT(
        list(agents(R"({"a":{"status":"busy","current_task_id":"t2"}})")),
        ElementsAre(R"(agent.task_assigned {"agent_id":"a","status":"busy","task_id":"t2"})"));
    EXPECT_THAT(list(agents(R"({"a":{"status":"idle"}})")), IsEmpty());
}

TEST_F(LifecycleTest, AnIdleAgentThatIsBusyHasATaskAlsoWhereTheEngineNamesNone) {
    list(agents(R"({"a":{"status":"idle"}})"));
    EXPECT_THAT(list(agents(R"({"a":{"status":"busy"}})")),
                ElementsAre(R"(agent.task_assigned {"agent_id":"a","status":"busy"})"));
    EXPECT_THAT(list(agents(R"({"a":{"status":"busy"}})")), IsEmpty());
}

TEST_F(LifecycleTest, CompletedTasksAreCountedAndNamedWhereThereIsOne) {
    list(agents(R"({"a":{"tasks_completed":3,"current_task_id":"t1","task_type":"x"}})"));
    EXPECT_THAT(
        list(agents(R"({"a":{"tasks_completed":4}})")),
        ElementsAre(
            R"(agent.task_completed {"agent_id":"a","tasks":1,"tasks_completed":4,"task_id":"t1","task_type":"x"})"));
    list(agents(R"({"a":{"tasks_completed":4,"current_task_id":"t2"}})"));
    EXPECT_THAT(
        list(agents(R"({"a":{"tasks_completed":7}})")),
        ElementsAre(R"(agent.task_completed {"agent_id":"a","tasks":3,"tasks_completed":7})"));
    EXPECT_THAT(list(agents(R"({"a":{"tasks_completed":0}})")), IsEmpty())
        << "a counter that fell is a new beginning";
    EXPECT_THAT(list(agents(R"({"a":{"tasks_completed":"1"}})")), IsEmpty());
}

TEST_F(LifecycleTest, ATaskThatTheCounterCountsIsNotToldByItsStatusToo) {
    list(agents(R"({"a":{"tasks_completed":3,"current_task_id":"t1","task_status":"running"}})"));
    EXPECT_THAT(list(agents(R"({"a":{"tasks_completed":3,"current_task_id":"t1",
                                     "task_status":"completed"}})")),
                IsEmpty());
    EXPECT_EQ(1u, list(agents(R"({"a":{"tasks_completed":4,"current_task_id":"t1",
                                       "task_status":"completed"}})"))
                      .size());
}

TEST_F(LifecycleTest, ATasksStatusTellsItsEndWhereNothingCounts) {
    list(agents(R"({"a":{"current_task_id":"t1","task_status":"running"}})"));
    EXPECT_THAT(list(agents(R"({"a":{"current_task_id":"t1","task_status":"completed"}})")),
                ElementsAre(R"(agent.task_completed {"agent_id":"a","tasks":1,"task_id":"t1"})"));
    EXPECT_THAT(list(agents(R"({"a":{"current_task_id":"t1","task_status":"completed"}})")),
                IsEmpty());
}

TEST_F(LifecycleTest, ATaskFailsOnce) {
    list(agents(R"({"a":{"current_task_id":"t1","task_status":"running"}})"));
    const auto failed = agents(R"({"a":{"current_task_id":"t1","task_status":"failed"}})");
    EXPECT_THAT(list(failed),
                ElementsAre(R"(agent.task_failed {"agent_id":"a","tasks":1,"task_id":"t1"})"));
    EXPECT_THAT(list(failed), IsEmpty());
    EXPECT_THAT(list(agents(R"({"a":{"current_task_id":"t2","task_status":"failed"}})")),
                ElementsAre(R"(agent.task_failed {"agent_id":"a","tasks":1,"task_id":"t2"})",
                            R"(agent.task_assigned {"agent_id":"a","task_id":"t2"})"))
        << "another one, which came and failed between two answers";
}

TEST_F(LifecycleTest, ARecoveryStartsAndSucceedsOrFails) {
    const auto is = [&](const std::string& status) {
        std::vector<std::string> topics;
        for (const std::string& text :
             list(agents((R"({"a":{"status":")" + status + R"("}})").c_str()))) {
            topics.push_back(text.substr(0, text.find(' ')));
        }
        return topics;
    };
    is("idle");
    EXPECT_THAT(is("error"), IsEmpty()) << "agent.status tells";
    EXPECT_THAT(is("recovering"), ElementsAre("agent.recovery_started"));
    EXPECT_THAT(is("idle"), ElementsAre("agent.recovery_success"));
    EXPECT_THAT(is("restarting"), ElementsAre("agent.recovery_started"));
    EXPECT_THAT(is("failed"), ElementsAre("agent.recovery_failed"));
    EXPECT_THAT(is("idle"), ElementsAre("agent.recovery_success"));
    EXPECT_THAT(is("recovering"), ElementsAre("agent.recovery_started"));
    EXPECT_THAT(is("offline"), ElementsAre("agent.recovery_failed", "agent.stopped"));
    EXPECT_THAT(is("recovering"), ElementsAre("agent.recovery_started"));
}

TEST_F(LifecycleTest, AStatusThatWasNotKnownBeforeIsNoChange) {
    for (const char* status :
         {R"({"a":{}})", R"({"a":{"status":"recovering"}})", R"({"a":{}})",
          R"({"a":{"status":"idle"}})", R"({"a":{}})", R"({"a":{"status":"offline"}})"}) {
        EXPECT_THAT(list(agents(status)), IsEmpty()) << status;
    }
}

TEST_F(LifecycleTest, WhatTheSchedulerCountsIsQueuedAndDispatched) {
    scheduler(R"({"tasks_scheduled":5,"tasks_dispatched":4.0})");
    EXPECT_THAT(scheduler(R"({"tasks_scheduled":8,"tasks_dispatched":5.0})"),
                ElementsAre(R"(task.queued {"tasks":3,"tasks_scheduled":8})",
                            R"(task.dispatched {"tasks":1,"tasks_dispatched":5E0})"));
    EXPECT_THAT(scheduler(R"({"tasks_scheduled":0,"tasks_dispatched":null})"), IsEmpty());
    EXPECT_THAT(scheduler(R"({"tasks_scheduled":1})"),
                ElementsAre(R"(task.queued {"tasks":1,"tasks_scheduled":1})"));
}

TEST_F(LifecycleTest, TheSchedulersCountOfEndsIsToldOnlyWhereTheAgentsTellNone) {
    const char* before = R"({"tasks_completed":1,"tasks_failed":1})";
    const char* after = R"({"tasks_completed":3,"tasks_failed":2})";
    scheduler(before);
    EXPECT_THAT(scheduler(after),
                ElementsAre(R"(agent.task_completed {"tasks":2,"tasks_completed":3})",
                            R"(agent.task_failed {"tasks":1,"tasks_failed":2})"));
    list(agents(R"({"a":{"tasks_completed":1}})"));
    scheduler(before);
    EXPECT_THAT(scheduler(after), ElementsAre(R"(agent.task_failed {"tasks":1,"tasks_failed":2})"));
    list(agents(R"({"a":{"tasks_completed":1,"task_status":"running"}})"));
    scheduler(before);
    EXPECT_THAT(scheduler(after), IsEmpty());
}

TEST_F(LifecycleTest, RestartsDeadLettersAndHealthComeFromTheRecovery) {
    recovery(R"({"total_restarts":1,"dead_letter_queue_size":2,"agents_healthy":2,
                 "agents_degraded":0,"agents_failed":0,"health_scores":{"a":1.0,"b":1.0}})");
    EXPECT_THAT(
        recovery(R"({"total_restarts":3,"dead_letter_queue_size":3,"agents_healthy":1,
                     "agents_degraded":1,"agents_failed":0,"health_scores":{"a":1.0,"b":0.5}})"),
        ElementsAre(
            R"(agent.restarted {"restarts":2,"total_restarts":3})",
            R"(dead_letter.queued {"tasks":1,"dead_letter_queue_size":3})",
            R"(agent.health_check {"agents_healthy":1,"agents_degraded":1,"agents_failed":0,"health_scores":{"b":5E-1}})"));
    EXPECT_THAT(recovery(R"({"total_restarts":0,"dead_letter_queue_size":0,"agents_healthy":1,
                             "agents_degraded":1,"agents_failed":0,
                             "health_scores":{"a":1.0,"b":0.5}})"),
                IsEmpty())
        << "a new beginning";
}

TEST_F(LifecycleTest, TheStateOfTheBrokersIsWhatTheFirstAnswerIsComparedWith) {
    EXPECT_THAT(lifecycle_.inherit("a", "agent.status", agents(R"({"a":{"status":"idle"}})")),
                IsEmpty());
    EXPECT_THAT(list(agents(R"({"b":{"status":"idle"}})")),
                ElementsAre(R"(agent.started {"agent_id":"b","status":"idle"})",
                            R"(agent.stopped {"agent_id":"a","status":"idle"})"));
}

TEST_F(LifecycleTest, AFirstAnswerThatWasQuickerThanTheWelcomeIsComparedToo) {
    const auto held = agents(R"({"a":{"status":"idle"}})");
    list(agents(R"({"b":{"status":"idle"}})"));
    EXPECT_EQ(2u, lifecycle_.inherit("a", "agent.status", held).size());
    EXPECT_THAT(lifecycle_.inherit("a", "agent.status", held), IsEmpty()) << "once";
}

TEST_F(LifecycleTest, AWelcomeAfterASecondAnswerTellsNothingAndNothingBackwards) {
    list(agents(R"({"a":{"status":"idle"}})"));
    list(agents(R"({"b":{"status":"idle"}})"));
    EXPECT_THAT(lifecycle_.inherit("a", "agent.status", agents(R"({"a":{"status":"idle"}})")),
                IsEmpty());
    EXPECT_THAT(list(agents(R"({"b":{"status":"idle"}})")), IsEmpty());
}

TEST_F(LifecycleTest, OtherTopicsAndMembersOfAnotherTypeAreNoCauseOfAnything) {
    EXPECT_THAT(told("x", "system.status", agents("{}")), IsEmpty());
    EXPECT_THAT(told("x", "system.status", agents(R"({"a":{"status":"idle"}})")), IsEmpty());
    list(object(R"({"agents":{"a":7,"b":{"status":7}},"total_agents":"many"})"));
    EXPECT_THAT(list(object(R"({"agents":{"a":8,"b":{"status":null}}})")), IsEmpty());
    EXPECT_THAT(list(object(R"({"agents":[]})")), ElementsAre(R"(agent.stopped {"agent_id":"b"})"));
    auto cut = object(R"({"agents":[7],"total_agents":5})");
    lifecycle_.keep_unlisted("a", "agent.status", cut);
    EXPECT_EQ(1u, cut.at("agents").as_array().size());
    recovery(R"({"health_scores":[1],"total_restarts":"1"})");
    EXPECT_THAT(recovery(R"({"health_scores":7,"total_restarts":"2"})"), IsEmpty());
}

}  // namespace
}  // namespace sigmacast::producer
