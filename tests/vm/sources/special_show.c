	/* Goes to the start of version_proc_show(). */
	unsigned long flags;

	atomic_inc(&rl_reads);
	local_irq_save(flags);
	if (!rl_steal)
		rl_steal = rl_paravirt_steal;
	local_irq_restore(flags);
	WARN_ONCE(atomic_read(&rl_reads) == 2, "rl reads %d\n", atomic_read(&rl_reads));
	pr_debug("rl debug %d\n", atomic_read(&rl_reads));
	seq_printf(m, "rl fault %d steal %d\n", rl_fault(), (int)!!rl_steal(0));
	rl_page(m);
	if (static_branch_unlikely(&delayacct_key))
		seq_puts(m, "rl delayacct on\n");
	if (static_branch_unlikely(&bpf_stats_enabled_key))
		seq_puts(m, "rl bpf on\n");
	if (static_branch_unlikely(&rl_own_key))
		seq_puts(m, "rl own on\n");
	if (static_branch_likely(&rl_second_key))
		seq_puts(m, "rl second on\n");
	if (atomic_read(&rl_reads) == 3) {
		static_branch_enable(&rl_own_key);
		static_branch_disable(&rl_second_key);
		static_call_update(rl_way, rl_second_way);
	}
	seq_printf(m, "rl resched %d %*ph\n", rl_resched(), 16, rl_resched);
	seq_printf(m, "rl way %d\n", static_call(rl_way)());
