/// Every new user gets a profile.
#[receiver(post_save, sender = User)]
async fn create_profile(saved: PostSave<'_, User>, conn: &mut Conn<'_>) -> Result<()> {
    Ok(())
}
