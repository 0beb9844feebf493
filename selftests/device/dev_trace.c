// SPDX-License-Identifier: MIT
/*
 * dev_trace.c: the tracepoints of /dev/evering: what a channel's life looks like in
 * tracefs, and that what it does not do is not told.
 */
#include "dev.h"

#include <sys/stat.h>

#define INSTANCES "/sys/kernel/tracing/instances"

FIXTURE(trace)
{
	int dev;
	int fd[2];
	char dir[64]; /* a trace buffer of our own; others may be tracing, too */
	char id[32]; /* of the channel */
};

static int trace_write(const char *dir, const char *file, const char *text)
{
	char path[160];
	int fd, ret;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

FIXTURE_SETUP(trace)
{
	const char *id;

	REQUIRE_DEVICE(self->dev);
	snprintf(self->dir, sizeof(self->dir), INSTANCES "/evering-%d",
		 getpid());
	if (mkdir(self->dir, 0700)) {
		self->dir[0] = 0;
		SKIP(return, "no tracefs for us: %s", strerror(errno));
	}
	if (trace_write(self->dir, "events/evering/enable", "1"))
		SKIP(return, "no events of evering");
	ASSERT_EQ(0, dev_pair(self->dev, &least_geometry, self->fd));
	id = fdinfo(self->fd[0], "channel");
	ASSERT_NE(NULL, id);
	snprintf(self->id, sizeof(self->id), "%.31s", id);
}

FIXTURE_TEARDOWN(trace)
{
	if (self->dir[0])
		EXPECT_EQ(0, rmdir(self->dir));
}

/* How many events there are of the channel that begin so. */
static int events(const char *dir, const char *id, const char *name,
		  const char *fields)
{
	char path[96], want[160], line[512];
	const char *event;
	FILE *f;
	int n = 0;

	snprintf(path, sizeof(path), "%s/trace", dir);
	snprintf(want, sizeof(want), ": evr_%s: channel=%s %s", name, id,
		 fields);
	f = fopen(path, "re");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		event = strstr(line, want);
		/* A number that goes on is another. */
		n += event && strchr(" \n", event[strlen(want)]);
	}
	fclose(f);
	return n;
}

#define EXPECT_EVENTS(n, name, fields) \
	EXPECT_EQ(n, events(self->dir, self->id, name, fields))

TEST_F(trace, create_tells_the_geometry)
{
	char fields[64];

	snprintf(fields, sizeof(fields), "slot_size=16 entries=4 bytes=%lu",
		 3 * PAGE);
	EXPECT_EVENTS(1, "create", fields);
}

TEST_F(trace, attach_and_detach_tell_state_and_epoch)
{
	void *half[2];
	int end;

	for (end = 0; end < 2; end++) {
		half[end] = map_region(&least_geometry, self->fd[end],
				       EVERING_REGION_HALF(end), PROT_READ);
		ASSERT_NE(MAP_FAILED, half[end]);
	}
	EXPECT_EVENTS(1, "attach", "end=A state=1 epoch=1");
	EXPECT_EVENTS(1, "attach", "end=B state=1 epoch=1");
	EXPECT_EVENTS(0, "detach", "end=A state=2 epoch=1");

	munmap(half[0], half_size(&least_geometry));
	EXPECT_EVENTS(1, "detach", "end=A state=2 epoch=1");
	half[0] = map_region(&least_geometry, self->fd[0],
			     EVERING_REGION_HALF_A, PROT_READ);
	ASSERT_NE(MAP_FAILED, half[0]);
	EXPECT_EVENTS(1, "attach", "end=A");

	munmap(half[1], half_size(&least_geometry));
	close(self->fd[1]);
	EXPECT_EVENTS(1, "detach", "end=B state=2 epoch=1");
	EXPECT_EVENTS(1, "detach", "end=B state=3 epoch=1");
	EXPECT_EVENTS(0, "detach", "end=A state=3 epoch=2");
}

TEST_F(trace, ring_tells_whether_it_was_heard)
{
	struct side b;

	ASSERT_EQ(0, side_map(&b, &least_geometry, self->fd[1], EVERING_B));
	EXPECT_EQ(0, dev_ring(self->fd[0], RX));
	EXPECT_EVENTS(1, "ring", "end=B bells=0x1 which=0x0");
	arm(b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX | TX));
	EXPECT_EVENTS(1, "ring", "end=B bells=0x3 which=0x1");
	EXPECT_EVENTS(0, "wake", "end=B bells=0x1 which=0x1");
}

struct sleeper {
	pid_t tid;
	int fd, ret;
};

static void *sleep_once(void *arg)
{
	struct sleeper *s = arg;

	__atomic_store_n(&s->tid, my_tid(), __ATOMIC_RELEASE);
	s->ret = dev_wait(s->fd, RX);
	return NULL;
}

TEST_F(trace, wake_tells_what_for)
{
	struct sleeper s = { .fd = self->fd[1] };
	pthread_t thread;
	struct side b;

	ASSERT_EQ(0, side_map(&b, &least_geometry, self->fd[1], EVERING_B));
	/* Who does not fall asleep is not woken. */
	EXPECT_EQ(RX, dev_wait(self->fd[1], RX));
	EXPECT_EVENTS(0, "wake", "end=B bells=0x1 which=0x1");

	arm(b.own, RX);
	EXPECT_EQ(-ETIMEDOUT, dev_enter(self->fd[1], 0, RX, 1));
	EXPECT_EVENTS(1, "wake", "end=B bells=0x1 which=0x0");

	ASSERT_EQ(0, pthread_create(&thread, NULL, sleep_once, &s));
	EXPECT_TRUE(falls_asleep(&s.tid));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	pthread_join(thread, NULL);
	EXPECT_EQ(RX, s.ret);
	EXPECT_EVENTS(1, "wake", "end=B bells=0x1 which=0x1");
	EXPECT_EVENTS(1, "ring", "end=B bells=0x1 which=0x1");
}

TEST_F(trace, members_come_are_marked_and_go)
{
	int group = dev_group(self->dev, 0);
	char fields[96];
	struct side b;

	ASSERT_GE(group, 0);
	ASSERT_EQ(0, side_attach(&b, &least_geometry, self->fd[1], EVERING_B));
	snprintf(fields, sizeof(fields), "end=B group=%.63s index=77",
		 fdinfo(group, "group"));
	ASSERT_EQ(0, dev_add(group, self->fd[1], 77));
	EXPECT_EVENTS(1, "add", fields);
	EXPECT_EVENTS(0, "mark", fields);
	EXPECT_EQ(0, dev_ring(self->fd[0], RX));
	EXPECT_EVENTS(0, "mark", fields);
	arm(b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EVENTS(1, "mark", fields);
	EXPECT_EVENTS(0, "remove", fields);
	ASSERT_EQ(0, dev_remove(group, self->fd[1]));
	EXPECT_EVENTS(1, "remove", fields);
	/* Whatever its end is. */
	ASSERT_EQ(0, dev_add(group, self->fd[1], 77));
	side_unmap(&b);
	EXPECT_EVENTS(2, "remove", fields);
}

TEST_F(trace, a_channel_is_told_apart_by_a_filter)
{
	char filter[64], id[32];
	int fd[2];

	ASSERT_EQ(0, dev_pair(self->dev, &least_geometry, fd));
	snprintf(id, sizeof(id), "%.31s", fdinfo(fd[0], "channel"));
	snprintf(filter, sizeof(filter), "channel == %s", self->id);
	ASSERT_EQ(0, trace_write(self->dir, "events/evering/filter", filter));
	dev_ring(fd[0], RX);
	dev_ring(self->fd[0], RX);
	EXPECT_EQ(0,
		  events(self->dir, id, "ring", "end=B bells=0x1 which=0x0"));
	EXPECT_EVENTS(1, "ring", "end=B bells=0x1 which=0x0");
}

TEST_HARNESS_MAIN
