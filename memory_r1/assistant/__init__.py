"""A memory for assistants: the public class `Memory`, its ids, guards and result shapes."""
