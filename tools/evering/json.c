// SPDX-License-Identifier: MIT
/*
 * The JSON writer; json.h says what the functions are for.
 */
#include <math.h>
#include <string.h>

#include "json.h"

/* @text as a string. */
static void put_string(FILE *out, const char *text);

static void begin(struct json *j, const char *key)
{
	if (j->more)
		fputs(j->compact ? "," : ", ", j->out);
	j->more = true;
	if (!key)
		return;
	put_string(j->out, key);
	fputs(j->compact ? ":" : ": ", j->out);
}

void json_open(struct json *j, const char *key, char bracket)
{
	begin(j, key);
	putc(bracket, j->out);
	j->more = false;
}

void json_close(struct json *j, char bracket)
{
	putc(bracket, j->out);
	j->more = true;
}

void json_end(struct json *j)
{
	putc('\n', j->out);
	j->more = false;
}

/* Bytes of the UTF-8 character at @c; 0: it is none. */
static int character_len(const unsigned char *c)
{
	static const unsigned int least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	unsigned int value;
	int len, i;

	if (*c < 0x80)
		return 1;
	len = *c >= 0xf8 ? 0 :
	      *c >= 0xf0 ? 4 :
	      *c >= 0xe0 ? 3 :
	      *c >= 0xc0 ? 2 :
			   0;
	if (!len)
		return 0;
	value = *c & (0x7fu >> len);
	for (i = 1; i < len; i++) {
		if ((c[i] & 0xc0) != 0x80)
			return 0;
		value = value << 6 | (c[i] & 0x3fu);
	}
	if (value < least[len] || value > 0x10ffff ||
	    (value >= 0xd800 && value < 0xe000))
		return 0;
	return len;
}

static void put_string(FILE *out, const char *text)
{
	const unsigned char *c = (const unsigned char *)text;
	int len;

	putc('"', out);
	for (; *c; c += len ? len : 1) {
		len = character_len(c);
		if (*c == '"' || *c == '\\')
			fprintf(out, "\\%c", *c);
		else if (*c < ' ' || *c == 0x7f)
			fprintf(out, "\\u%04x", *c);
		else if (len)
			fwrite(c, 1, (size_t)len, out);
		else
			fputs("\\ufffd", out);
	}
	putc('"', out);
}

void json_text(struct json *j, const char *key, const char *text)
{
	if (!text) {
		json_null(j, key);
		return;
	}
	begin(j, key);
	put_string(j->out, text);
}

void json_number(struct json *j, const char *key, uint64_t value)
{
	begin(j, key);
	fprintf(j->out, "%llu", (unsigned long long)value);
}

void json_bool(struct json *j, const char *key, bool value)
{
	begin(j, key);
	fputs(value ? "true" : "false", j->out);
}

void json_null(struct json *j, const char *key)
{
	begin(j, key);
	fputs("null", j->out);
}

void json_fixed(struct json *j, const char *key, double value, int decimals)
{
	if (!isfinite(value)) {
		json_null(j, key);
		return;
	}
	begin(j, key);
	fprintf(j->out, "%.*f", decimals, value);
}

void json_real(struct json *j, const char *key, double value)
{
	if (!isfinite(value)) {
		json_null(j, key);
		return;
	}
	begin(j, key);
	fprintf(j->out, "%.6g", value);
}
