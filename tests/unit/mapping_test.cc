#include "producer/mapping.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "engine_captures.h"

namespace sigmacast::producer {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;

const Now kNow{Mono{} + 500s, Wall{} + 1'795'219'112s};

PollSettings poll(const std::string& mapper, const std::string& key = "") {
    PollSettings settings;
    settings.name = "test";
    settings.mapper = mapper;
    settings.key = key;
    return settings;
}

PollSettings jobs_poll() {
    PollSettings settings = poll("jobs");
    settings.params = R"({"include_pending":true,"limit":50})";
    return settings;
}

Mapped mapped(const PollSettings& settings, const json::value& result) {
    Result<Mapped> answer = map_answer(settings, result, kNow);
    EXPECT_TRUE(answer) << (answer ? "" : answer.error().message);
    return answer ? *answer : Mapped{};
}

json::object only(const Mapped& answer) {
    EXPECT_EQ(1u, answer.values.size());
    return answer.values.empty() ? json::object() : answer.values[0].data;
}

std::string error(const PollSettings& settings, const char* result) {
    const Result<Mapped> answer = map_answer(settings, json::parse(result), kNow);
    return answer ? "no error" : answer.error().message;
}

TEST(MapSystem, TheRecordedAnswerHasTheContractsMembers) {
    const Mapped answer = mapped(poll("system"), captured_result("system_status"));
    EXPECT_FALSE(answer.keyed);
    EXPECT_EQ(json::parse(R"({"hostname":"vm","uptime":1068,"cpu_usage":24.6,"memory_pct":2.7,
        "memory_used":336171008,"memory_total":25274793984,"load_average":
        {"load1":1.5302734375,"load5":1.7021484375,"load15":0.89111328125}})"),
              json::value(only(answer)));
}

/// The recorded answer with members replaced; null leaves one out.
json::value system_with(const char* members) {
    json::object answer = captured_result("system_status").as_object();
    const json::value changes = json::parse(members);
    for (const auto& [name, value] : changes.as_object()) {
        if (value.is_null()) {
            answer.erase(name);
        } else {
            answer[name] = value;
        }
    }
    return answer;
}

std::string system_error(const char* members) {
    return error(poll("system"), json::serialize(system_with(members)).c_str());
}

TEST(MapSystem, DisksAreTakenOverWhereTheEngineTells) {
    const json::object data =
        only(mapped(poll("system"), system_with(R"({"disk_usage":[{"path":"/"}]})")));
    EXPECT_EQ("/", data.at("disks").at(0).at("path").as_string());
}

TEST(MapSystem, AMemberOfTheWrongTypeMakesTheAnswerUnusableByName) {
    EXPECT_EQ("result.uptime is not a number", system_error(R"({"uptime":"1"})"));
    EXPECT_EQ("result.hostname is not a string", system_error(R"({"hostname":1})"));
    EXPECT_EQ("result.memory_usage is not an object", system_error(R"({"memory_usage":[]})"));
    EXPECT_EQ("result.memory_usage.used is not a number",
              system_error(R"({"memory_usage":{"used":true}})"));
    EXPECT_EQ("result is not an object", error(poll("system"), "[1,2,3]"));
}

TEST(MapSystem, PartOfAnAnswerIsNoAnswer) {
    EXPECT_EQ("result lacks hostname", error(poll("system"), R"({"a":1})"));
    for (const std::string name :
         {"hostname", "uptime", "cpu_usage", "memory_usage", "load_average"}) {
        EXPECT_EQ("result lacks " + name, system_error(("{\"" + name + "\":null}").c_str()));
    }
}

TEST(MapSystem, BytesAreWholeNumbers) {
    const json::object data = only(
        mapped(poll("system"), system_with(R"({"memory_usage":{"used":3.0e8,"total":1e12}})")));
    EXPECT_EQ(300'000'000, data.at("memory_used").as_int64());
    EXPECT_EQ(1'000'000'000'000, data.at("memory_total").as_int64());
    EXPECT_EQ("result.memory_usage.used is not a whole number",
              system_error(R"({"memory_usage":{"used":1e300}})"));
}

TEST(MapJobs, EachRecordedListIsCompleteAndMaps) {
    for (int i = 0; i <= 15; ++i) {
        const std::string name =
            std::string("queue_running_live_") + (i < 10 ? "0" : "") + std::to_string(i);
        const Mapped answer = mapped(jobs_poll(), captured_result(name));
        EXPECT_TRUE(answer.keyed);
        EXPECT_TRUE(answer.complete) << name;
        EXPECT_EQ(7u, answer.values.size()) << name;
    }
    for (const char* name : {"queue_running_unstarted_t0", "queue_running_unstarted_t4s"}) {
        EXPECT_EQ(3u, mapped(jobs_poll(), captured_result(name)).values.size()) << name;
    }
}

TEST(MapJobs, AJobHasTheContractsMembersAndTheEnginesRatio) {
    const json::value result = captured_result("queue_running_live_05");
    const Mapped answer = mapped(jobs_poll(), result);
    const json::object& raw = result.at("jobs").at(0).as_object();
    const MappedValue& job = answer.values[0];
    EXPECT_EQ(raw.at("job_id").as_string(), job.key);
    EXPECT_EQ(13u, job.data.size());
    EXPECT_EQ(raw.at("current_ratio"), job.data.at("compression_ratio"));
    for (const char* field :
         {"job_id", "status", "job_type", "priority", "phase", "progress", "elapsed_seconds",
          "eta_seconds", "bytes_processed", "bytes_total", "input_path", "output_path"}) {
        EXPECT_EQ(raw.at(field), job.data.at(field)) << field;
    }
}

TEST(MapJobs, TheSummaryIsLastAndHoldsTheJobsInTheEnginesOrder) {
    const Mapped answer = mapped(jobs_poll(), captured_result("queue_running_live_05"));
    const MappedValue& summary = answer.values.back();
    EXPECT_EQ("", summary.key);
    EXPECT_EQ(4, summary.data.at("total_running").as_int64());
    EXPECT_EQ(2, summary.data.at("total_pending").as_int64());
    EXPECT_EQ(6, summary.data.at("total_jobs").as_int64());
    const json::array& jobs = summary.data.at("jobs").as_array();
    ASSERT_EQ(6u, jobs.size());
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        EXPECT_EQ(answer.values[i].key, jobs[i].at("job_id").as_string());
        EXPECT_EQ(1'795'219'112, jobs[i].at("timestamp").as_int64());
    }
}

TEST(MapJobs, AnEmptyQueueIsASummaryAlone) {
    const Mapped answer = mapped(jobs_poll(), captured_result("compression_queue_running_empty"));
    ASSERT_EQ(1u, answer.values.size());
    EXPECT_TRUE(answer.values[0].data.at("jobs").as_array().empty());
    EXPECT_TRUE(answer.complete);
}

TEST(MapJobs, EndedJobsInTheTotalDoNotMakeAListIncomplete) {
    const Mapped answer = mapped(jobs_poll(), captured_result("queue_running_after_completion"));
    EXPECT_TRUE(answer.complete);
    EXPECT_EQ(1, answer.values[0].data.at("total_jobs").as_int64());
}

TEST(MapJobs, AListThatWasCutOffIsIncomplete) {
    const json::value cut = json::parse(
        R"({"jobs":[{"job_id":"a"}],"total_running":1,"total_pending":1,"total_jobs":2})");
    EXPECT_FALSE(mapped(jobs_poll(), cut).complete);
}

TEST(MapJobs, PendingJobsThatWereNotAskedForAreNotMissing) {
    PollSettings settings = jobs_poll();
    settings.params = R"({"include_pending":false})";
    EXPECT_TRUE(mapped(settings, captured_result("queue_running_no_pending")).complete);
    EXPECT_FALSE(mapped(jobs_poll(), captured_result("queue_running_no_pending")).complete);
}

TEST(MapJobs, OneBadJobMakesTheWholeAnswerUnusable) {
    EXPECT_EQ("result.jobs is not an array", error(jobs_poll(), R"({"total_jobs":0})"));
    EXPECT_EQ("result.jobs[1] is not an object",
              error(jobs_poll(), R"({"jobs":[{"job_id":"a"},1]})"));
    EXPECT_EQ("result.jobs[0].job_id is not a string", error(jobs_poll(), R"({"jobs":[{}]})"));
    EXPECT_EQ("result.jobs[0].job_id is not 1 to 256 bytes long",
              error(jobs_poll(), R"({"jobs":[{"job_id":""}]})"));
    EXPECT_EQ("result.jobs[1].job_id repeats a",
              error(jobs_poll(), R"({"jobs":[{"job_id":"a"},{"job_id":"a"}]})"));
    EXPECT_EQ("result.jobs[0].progress is not a number",
              error(jobs_poll(), R"({"jobs":[{"job_id":"a","progress":"half"}]})"));
}

TEST(MapJobs, NullMembersAreLeftOut) {
    const Mapped answer =
        mapped(jobs_poll(), json::parse(R"({"jobs":[{"job_id":"a","phase":null}]})"));
    EXPECT_EQ(json::parse(R"({"job_id":"a"})"), json::value(answer.values[0].data));
}

TEST(MapAgents, FortyAgentsAreFortyEntriesByTheirIds) {
    const json::object data = only(mapped(poll("agents"), captured_result("agents_list")));
    EXPECT_EQ(40u, data.at("agents").as_object().size());
    EXPECT_EQ(40, data.at("total_agents").to_number<int>());
    EXPECT_EQ(40, data.at("idle_agents").to_number<int>());
    EXPECT_EQ(0, data.at("active_agents").to_number<int>());
    EXPECT_EQ(0, data.at("error_agents").to_number<int>());
}

TEST(MapAgents, AnAgentHasTheContractsNames) {
    const json::object data = only(mapped(poll("agents"), captured_result("agents_list")));
    EXPECT_EQ(json::parse(R"({"id":"agent-001","codename":"TENSOR","status":"idle",
        "specialization":"Deep learning compression models","tier":"core","tasks_completed":0,
        "success_rate":1.0,"memory_usage":128.0,"average_latency":0.0,"last_active":1795218997,
        "timestamp":1795219112})"),
              data.at("agents").at("agent-001"));
}

TEST(MapAgents, StatusesAreCounted) {
    const json::object data = only(mapped(
        poll("agents"), json::parse(
                            R"([{"agent_id":"a","status":"busy"},{"agent_id":"b","status":"active"},
            {"agent_id":"c","status":"error"},{"agent_id":"d","status":"idle"},
            {"agent_id":"e","status":"offline"},{"agent_id":"f"}])")));
    EXPECT_EQ(6, data.at("total_agents").to_number<int>());
    EXPECT_EQ(2, data.at("active_agents").to_number<int>());
    EXPECT_EQ(1, data.at("idle_agents").to_number<int>());
    EXPECT_EQ(1, data.at("error_agents").to_number<int>());
}

TEST(MapAgents, AListThatWasCutOffSaysSoAndKeepsTheEnginesTotal) {
    const PollSettings settings = poll("agents");
    const Mapped cut =
        mapped(settings, json::parse(R"({"agents":[{"agent_id":"a"}],"total_agents":2})"));
    EXPECT_FALSE(cut.complete);
    EXPECT_EQ(2, only(cut).at("total_agents").as_int64());
    EXPECT_FALSE(mapped(settings, json::parse(R"({"agents":[],"total":1})")).complete);
    EXPECT_TRUE(
        mapped(settings, json::parse(R"({"agents":[{"agent_id":"a"}],"total":1})")).complete);
    EXPECT_TRUE(mapped(settings, json::parse(R"([{"agent_id":"a"}])")).complete);
}

TEST(MapAgents, OneBadAgentMakesTheWholeAnswerUnusable) {
    EXPECT_EQ("result is not an array", error(poll("agents"), "7"));
    EXPECT_EQ("result[0].agent_id is not a string", error(poll("agents"), "[{}]"));
    EXPECT_EQ("result[0].last_active is not a time as RFC 3339 writes it",
              error(poll("agents"), R"([{"agent_id":"a","last_active":"yesterday"}])"));
    EXPECT_EQ("result[1].agent_id repeats a",
              error(poll("agents"), R"([{"agent_id":"a"},{"agent_id":"a"}])"));
}

TEST(MapStorage, AListBecomesTheMemberThatTheKeyNames) {
    for (const char* name : {"pools", "disks"}) {
        const Mapped answer = mapped(poll("storage", name), json::parse(R"([{"name":"a"}])"));
        EXPECT_TRUE(answer.keyed);
        EXPECT_EQ(name, answer.values.at(0).key);
        EXPECT_EQ("a", only(answer).at(name).at(0).at("name").as_string());
    }
}

TEST(MapStorage, AListInsideAnObjectIsFound) {
    const json::object data =
        only(mapped(poll("storage", "disks"), json::parse(R"({"disks":[],"total":0})")));
    EXPECT_EQ(json::parse(R"({"disks":[]})"), json::value(data));
}

TEST(MapStorage, WhatIsNoListOfObjectsIsUnusable) {
    EXPECT_EQ("result.pools is not an array", error(poll("storage", "pools"), R"({"disks":[]})"));
    EXPECT_EQ("result[0] is not an object", error(poll("storage", "pools"), "[1]"));
}

TEST(MapAsIs, MembersAreTakenOverAndRenamedAndTheOuterTimestampIsNot) {
    PollSettings settings = poll("as_is");
    settings.rename = {{"temp", "temperature"}};
    const Mapped answer =
        mapped(settings, json::parse(R"({"temp":21.5,"a":{"timestamp":1},"timestamp":"2026"})"));
    EXPECT_FALSE(answer.keyed);
    EXPECT_EQ(json::parse(R"({"temperature":21.5,"a":{"timestamp":1}})"),
              json::value(only(answer)));
}

TEST(MapAsIs, AFixedKeyIsTheWholeSetOfKeys) {
    const Mapped answer = mapped(poll("as_is", "eth0"), json::parse(R"({"a":1})"));
    EXPECT_TRUE(answer.keyed);
    EXPECT_EQ("eth0", answer.values.at(0).key);
}

TEST(MapAsIs, AnAnswerThatIsNoObjectBecomesOne) {
    EXPECT_EQ(json::parse(R"({"items":[1,2]})"),
              json::value(only(mapped(poll("as_is"), json::parse("[1,2]")))));
    EXPECT_EQ(json::parse(R"({"value":42})"), json::value(only(mapped(poll("as_is"), 42))));
}

TEST(JobEnd, TheLastKnownDataIsOverlaidWithTheAnswer) {
    const json::object known =
        json::parse(
            R"({"job_id":"a","status":"running","progress":64.8,"input_path":"/x","phase":"c"})")
            .as_object();
    const json::object end = job_end(known, captured_result("queue_status_failed").as_object());
    EXPECT_EQ("failed", end.at("status").as_string());
    EXPECT_EQ(100.0, end.at("progress").to_number<double>());
    EXPECT_EQ("/x", end.at("input_path").as_string());
    EXPECT_EQ("2026-11-21T00:17:50.377773", end.at("completed_at").as_string());
    EXPECT_EQ("Input file not found: /mnt/pool0/media/missing.bin", end.at("error").as_string());
}

TEST(JobEnd, NullMembersOfTheAnswerTakeNothingAway) {
    const json::object end = job_end(json::parse(R"({"error":"kept"})").as_object(),
                                     captured_result("queue_status_completed").as_object());
    EXPECT_EQ("kept", end.at("error").as_string());
    EXPECT_EQ("completed", end.at("status").as_string());
}

TEST(JobEnd, OnlyAJobThatRunsOrWaitsHasNotEnded) {
    for (const char* name :
         {"queue_status_completed", "queue_status_failed", "queue_status_cancelled"}) {
        EXPECT_FALSE(still_runs(captured_result(name).as_object())) << name;
    }
    EXPECT_TRUE(still_runs(json::parse(R"({"status":"pending"})").as_object()));
    EXPECT_FALSE(still_runs({}));
}

TEST(Mappers, AreKnownByName) {
    for (const char* name : {"as_is", "system", "jobs", "agents", "storage"}) {
        EXPECT_TRUE(is_mapper(name)) << name;
    }
    EXPECT_FALSE(is_mapper("job"));
}

}  // namespace
}  // namespace sigmacast::producer
